#!/usr/bin/env bash
# Builds the fuzz targets with coverage, on the stable toolchain, and runs each from the repository's fixtures.
#
#   fuzz/run.sh [SECONDS [TARGET...]]     60 seconds each and all targets, unless told otherwise
#
# A crash ends a target; its input lies in fuzz/artifacts/TARGET/. Exits with 1 if there was any. What was found on the
# way is kept in fuzz/corpus/TARGET/ for the next run.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-60}
shift $(($# > 0 ? 1 : 0))
targets=("$@")
[ $# -gt 0 ] || targets=(checkpoint_config data_uri image jsonl parquet request safetensors tar torch)
fixtures=../tests/fixtures
# Its own, because cargo does not see the wrapper's flags.
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$PWD/target}
export RUSTC_WRAPPER=$PWD/cover.sh

# With a target, build scripts are built apart, without coverage.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --locked --target "$host"

# Copies the fixtures with the given endings that are at most 200 kB.
seeds() {
    local to=$1 ending
    shift
    for ending in "$@"; do
        find "$fixtures" -name "*.$ending" -size -200k -print0 |
            while IFS= read -r -d '' file; do
                cp "$file" "$to/$(echo "${file#"$fixtures"/}" | tr / -)"
            done
    done
}

# Copies a configuration file behind the letter that names its kind.
configs() {
    local to=$1 letter=$2 name=$3
    find "$fixtures" ../checkpoints -path "*$name" -size -200k -print0 |
        while IFS= read -r -d '' file; do
            { printf %s "$letter" && cat "$file"; } >"$to/$letter-$(echo "$file" | tr -c '[:alnum:]\n' -)"
        done
}

# The data: URI of an image.
uri() { printf 'data:image/%s;base64,%s' "${1##*.}" "$(base64 -w 0 "$1")"; }

# A body for each route behind the letter that chooses it: the bytes of d to h are 0 to 4 modulo 5.
requests() {
    local to=$1 sampling='"temperature":0.5,"top_p":0.9,"top_k":5,"min_p":0.1,"seed":-1,"stop":["a"],"n":2,"max_tokens":9'
    local image
    image=$(find "$fixtures/images" -name '*.png' -size -2k | sort | head -n 1)
    image="{\"type\":\"image_url\",\"image_url\":{\"url\":\"$(uri "$image")\"}}"
    echo "d{\"messages\":[{\"role\":\"system\",\"content\":\"a\"},{\"role\":\"user\",\"content\":[$image,{\"type\":\"text\",\"text\":\"b\"}]}],\"logprobs\":true,$sampling}" >"$to/chat"
    echo "d{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\",\"images\":[$image],\"x_parts\":[{\"type\":\"image\",\"index\":0},{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"user\",\"content\":\"c\"}],\"modalities\":[\"image\"],\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"type\":\"object\"}}}}" >"$to/parts"
    echo "e{\"prompt\":[[1,2],[3]],\"structured_outputs\":{\"choice\":[\"a\",\"b\"]},\"logprobs\":2,$sampling}" >"$to/completion"
    echo "f{\"prompt\":\"a\",\"size\":\"64x64\",\"candidates\":3,\"stream\":true,\"partial_images\":2,\"guidance_scale\":3}" >"$to/generation"
    echo "g{\"messages\":[{\"role\":\"user\",\"content\":[$image]}]}" >"$to/tokenize"
    echo 'h{"tokens":[1,2,3]}' >"$to/detokenize"
}

# Inputs are files; in memory, if there is such a place. Another run of this script has its own.
FUZZ_INPUT_DIR=$(mktemp -d -p "$([ -d /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
export FUZZ_INPUT_DIR
trap 'rm -rf "$FUZZ_INPUT_DIR"' EXIT

failed=0
for target in "${targets[@]}"; do
    corpus=corpus/$target
    mkdir -p "$corpus" "artifacts/$target"
    case $target in
        image) seeds "$corpus" png jpg jpeg webp ;;
        torch) seeds "$corpus" pt pth ckpt ;;
        data_uri)
            find "$fixtures" \( -name '*.png' -o -name '*.jpg' -o -name '*.webp' \) -size -60k -print0 |
                while IFS= read -r -d '' file; do
                    uri "$file" >"$corpus/$(echo "${file#"$fixtures"/}" | tr / -)"
                done
            ;;
        request) requests "$corpus" ;;
        safetensors)
            header='{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]}}'
            printf '%b\0\0\0\0\0\0\0%s0123456789ab' "\\x$(printf %x ${#header})" "$header" >"$corpus/two-tensors"
            ;;
        checkpoint_config)
            configs "$corpus" c models/*/config.json
            configs "$corpus" v vq_tokenizer/config.json
            configs "$corpus" g /generation_config.json
            configs "$corpus" p /preprocessor_config.json
            configs "$corpus" t /tokenizer.json
            ;;
        *) seeds "$corpus" "$target" ;;
    esac
    echo "== $target: $seconds seconds, $(find "$corpus" -type f | wc -l) inputs"
    "$CARGO_TARGET_DIR/$host/release/$target" "$corpus" -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" \
        -max_len=200000 -timeout=30 -rss_limit_mb=6000 -malloc_limit_mb=3000 -print_final_stats=1 -verbosity=1 \
        2>&1 | tail -n 25 || failed=1
done
exit $failed
