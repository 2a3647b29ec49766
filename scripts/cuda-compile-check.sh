#!/usr/bin/env bash
# Every kernel of captioning, of drawing with guidance and of training, compiled by NVIDIA's NVRTC for an H200 (sm_90a) and
# launched on a stand-in for the driver that checks launches and computes nothing (scripts/stand_in_cuda.c). Needs a C
# compiler and Python's pip, which fetches NVRTC; no GPU, no CUDA toolkit. Meant for every night.
#
#   scripts/cuda-compile-check.sh [BINARY [OUT]]      # builds one with the feature `cuda` unless it is given one
#
# Passes if every command ends well, having compiled and launched kernels, with no failed compilation and no violation.
# OUT, cuda-compile-check by default, keeps the packages for the next time, and what each command did: NAME.tsv, NAME.txt.
set -euo pipefail
binary=${1:+$(realpath "$1")}
out=$(realpath -m "${2:-cuda-compile-check}")
cd "$(dirname "$0")/.."
mkdir -p "$out/lib"

# The headers' version is that of cudarc's bindings in a build that found no CUDA toolkit.
packages=$out/packages-13.4
if [ ! -e "$packages/complete" ]; then
    rm -rf "$packages"
    export PIP_ROOT_USER_ACTION=ignore
    if ! python3 -m pip install --quiet --no-deps --target "$packages" nvidia-cuda-nvrtc==13.4.92 \
        nvidia-cuda-runtime==13.4.49 nvidia-cuda-crt==13.4.92 nvidia-cuda-cccl==13.3.5.0.6; then
        echo 'SKIPPED: pip cannot install NVRTC; no kernel was compiled' >&2
        exit 0
    fi
    touch "$packages/complete"
fi
export CUDA_PATH=$packages/nvidia/cu13
# No kernel is taken from disk.
export CALUMMA_CACHE=
cc -std=gnu2x -O1 -Wall -Wextra -Werror -shared -fPIC -I"$CUDA_PATH/include" scripts/stand_in_cuda.c \
    -o "$out/lib/libcuda.so" -L"$CUDA_PATH/lib" -l:libnvrtc.so.13 -ldl -lpthread
ln -sf libcuda.so "$out/lib/libnvrtc.so"

if [ -z "$binary" ]; then
    cargo build --locked --features cuda
    binary=$(realpath "${CARGO_TARGET_DIR:-target}/debug/calumma")
fi

count() { awk -F'\t' -v kind="$1" '$1 == kind { n++ } END { print n + 0 }' "$log"; }
wrong=
check() { # NAME ARGUMENTS...
    local log=$out/$1.tsv text=$out/$1.txt status=0 compiled launches violations
    : > "$log"
    STAND_IN_LOG=$log LD_LIBRARY_PATH=$out/lib:$CUDA_PATH/lib \
        timeout 600 "$binary" --device cuda --quiet "${@:2}" > "$text" 2>&1 || status=$?
    compiled=$(count compiled)
    launches=$(count launch)
    violations=$(($(count violation) + $(count failed)))
    printf '| %-14s | %7s | %7s | %8s | %10s |\n' "$1" "$compiled" \
        "$(awk -F'\t' '$1 == "compiled" { ms += $2 } END { printf "%.1f", ms / 1000 }' "$log")" "$launches" "$violations"
    if [ "$status" -ne 0 ] || [ "$compiled" -eq 0 ] || [ "$launches" -eq 0 ] || [ "$violations" -ne 0 ]; then
        wrong+=" $1"
        echo "WRONG: $1 with exit status $status; see $log" >&2
        { grep -E '^(violation|failed)' "$log" | sort | uniq -c | head -n 20 || true; tail -n 20 "$text"; } >&2
    fi
}

printf '| %-14s | kernels | NVRTC s | launches | violations |\n' command
echo '|---|---|---|---|---|'
rm -rf "$out/images" "$out/runs"
scenes='[{path = "scenes:train?count=64&seed=1"}]'
lm=(train recipes/bench-tiny.toml --set run.steps=2 --set run.directory="$out/runs")
# The first step is an autoencoder's, the second starts the codebook, the third replaces unused codes.
vq=(vq train recipes/vq-64.toml --set run.steps=3 --set run.directory="$out/runs" --set data="$scenes" --set validation=[]
    --set warmup.autoencoder_steps=1 --set codebook.after_steps=2)
# A drawn id is a word that the device answers with: 0 is no end of a text, 4 is a code of images.
check caption caption checkpoints/demo docs/demo.png --greedy --max-tokens 32
STAND_IN_WORD=4 check drawing draw checkpoints/demo 'a large red circle' --seed 3 --out "$out/images"
check training-f32 "${lm[@]}" --set run.name=f32
check training-bf16 --precision bf16 "${lm[@]}" --set run.name=bf16
# Enough scores for attention by matrix products, in rows of an odd length.
check training-long --precision bf16 "${lm[@]}" --set run.name=long --set optimizer.kind=muon --set batch.sequences=48 \
    --set batch.seq_len=1001 --set model.max_position_embeddings=1001
check tokenizer-f32 "${vq[@]}" --set run.name=tokenizer-f32
check tokenizer-bf16 --precision bf16 "${vq[@]}" --set run.name=tokenizer-bf16
[ -z "$wrong" ] || exit 1
