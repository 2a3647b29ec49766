#!/usr/bin/env bash
# The kernels for GPUs on Vulkan in software (lavapipe): every kernel and whole trainings beside the CPU, of the model and
# of the image tokenizer, then a caption and an image with the program itself. Needs the Debian package
# mesa-vulkan-drivers, which it installs if it may; without a driver it says so and passes.
set -euo pipefail
cd "$(dirname "$0")/.."
icd=/usr/share/vulkan/icd.d/lvp_icd.x86_64.json
if [ ! -e "$icd" ]; then
    (apt-get update && apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1) || true
fi
if [ ! -e "$icd" ]; then
    echo 'SKIPPED: mesa-vulkan-drivers cannot be installed; no kernel for GPUs was run' >&2
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export VK_ICD_FILENAMES=$icd XDG_RUNTIME_DIR=$work

# Without optimisation: the shaders are what takes time, and Burn builds in a minute.
cargo test --locked -p calumma -p vq_tokenizer --features wgpu --lib -- model::ops kernels_agree ops::gpu ops::whole_tests
cargo build --locked --features wgpu
calumma=${CARGO_TARGET_DIR:-target}/debug/calumma

pixels() { python3 - "$1" <<'P'
import sys, zlib
data, at, found = open(sys.argv[1], 'rb').read(), 8, b''
while at < len(data):
    length, kind = int.from_bytes(data[at:at + 4], 'big'), data[at + 4:at + 8]
    found += data[at + 8:at + 8 + length] if kind == b'IDAT' else b''
    at += length + 12
print(zlib.crc32(zlib.decompress(found)))
P
}
for device in cpu wgpu; do
    "$calumma" --device $device draw checkpoints/demo 'a large red circle' --seed 3 --out "$work/$device"
    image=$(echo "$work/$device"/*.png)
    pixels "$image" > "$work/$device.pixels"
    "$calumma" --device $device caption checkpoints/demo "$work"/cpu/*.png --greedy > "$work/$device.txt"
done
cat "$work/wgpu.txt"
cmp "$work/cpu.txt" "$work/wgpu.txt"
cmp "$work/cpu.pixels" "$work/wgpu.pixels"
