#!/usr/bin/env bash
# Everything that a new GPU, driver or build has to show, meant for 8 minutes, on a machine with this repository, a binary
# built with the feature `cuda`, Python 3 and no Rust: operations beside the CPU, the demo's answers, a training that
# follows the CPU's, speed, decoding, memory. It stops at the first thing that is wrong, unless KEEP_GOING is set.
#
#   scripts/gpu-check.sh BINARY [OUT]        # writes OUT/results.json and OUT/table.md; OUT is gpu-check by default
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${1:?the binary to check}")
out=${2:-gpu-check}
mkdir -p "$out"
results=$out/results.jsonl
: > "$results"

say() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }
note() { printf '%s\n' "$1" >> "$results"; }
wrong() {
    echo "WRONG: $1" >&2
    note "{\"wrong\": \"$1\"}"
    [ -n "${KEEP_GOING:-}" ] || exit 1
}
gpu() { timeout "$1" "$binary" --device cuda --quiet "${@:2}"; }

# The CPU trains meanwhile; its losses are what the GPU's are compared with.
steps=${STEPS:-200}
train() { # DIRECTORY SECONDS ARGUMENTS...
    exec timeout "$2" "$binary" --quiet "${@:3}" --set run.directory="$out/$1"
}
rm -rf "$out/cpu" "$out/gpu" "$out/speed"
train cpu 400 --device cpu train recipes/bench-tiny.toml --set run.steps="$steps" &
reference=$!
end() {
    kill $reference 2> /dev/null || true
    python3 scripts/gpu-check-table.py "$results" "$out"
}
trap end EXIT

say 'the machine'
"$binary" doctor --json | tee -a "$results" > /dev/null
"$binary" doctor

say 'operations beside the CPU'
gpu 120 doctor --check --json | tee -a "$results" || wrong 'an operation'

say 'the demo beside the CPU'
for device in cpu cuda; do
    rm -rf "${out:?}/$device-images"
    timeout 60 "$binary" --quiet --device $device draw checkpoints/demo 'a large red circle' --seed 3 \
        --out "$out/$device-images" || wrong "drawing on $device"
    timeout 60 "$binary" --quiet --device $device caption checkpoints/demo "$out"/cpu-images/*.png --greedy \
        > "$out/$device-caption.txt" || wrong "a caption on $device"
    note "{\"caption\": \"$device: $(tr -d '"' < "$out/$device-caption.txt")\"}" # rounding may turn a near tie
done

say "training for $steps steps, in f32"
(train gpu 200 --device cuda train recipes/bench-tiny.toml --set run.steps="$steps") || wrong 'a training in f32'

say 'the same on the CPU'
wait $reference || wrong 'the training on the CPU did not end in time'
python3 scripts/gpu-check-table.py --losses "$out/cpu/bench-tiny/metrics.jsonl" "$out/gpu/bench-tiny/metrics.jsonl" \
    >> "$results" || wrong 'the losses do not follow those of the CPU'

say 'speed of training in bfloat16'
for size in tiny small base 1b; do
    if (train speed 150 --device cuda --precision bf16 train "recipes/bench-$size.toml" --set run.steps=12); then
        python3 scripts/gpu-check-table.py --speed "bench-$size" "$out/speed/bench-$size/metrics.jsonl" >> "$results"
    else
        wrong "a training of bench-$size in bf16"
    fi
    rm -rf "$out/speed"
done

say 'decoding'
for rows in 1 8 64; do
    gpu 60 bench checkpoints/demo --rows $rows --seconds 2 --json | sed "s/^{/{\"rows\": $rows, /" >> "$results" \
        || wrong "decoding $rows rows"
done
! grep -q '"wrong"' "$results"
