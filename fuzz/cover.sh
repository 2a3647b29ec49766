#!/usr/bin/env bash
# A RUSTC_WRAPPER: adds libFuzzer's coverage to the crates that read files, and to no others (Burn above all).
# These are flags of the stable compiler, which runs LLVM's own pass. Build scripts, which are built without a --target
# and are not linked with libFuzzer, get none.
set -euo pipefail

name='' target='' previous=''
for argument in "$@"; do
    if [ "$previous" = --crate-name ]; then name=$argument; fi
    if [ "$argument" = --target ]; then target=given; fi
    previous=$argument
done

[ -n "$target" ] || exec "$@"
case $name in
    calumma | tensor_files | vq_tokenizer | image | image_webp | mozjpeg | png | fdeflate \
        | zune_jpeg | jpeg_decoder | tar | zip | parquet | thrift | serde_json \
        | serde_path_to_error | safetensors | csv | csv_core | tokenizers)
        set -- "$@" \
            -Ccodegen-units=1 \
            -Cpasses=sancov-module \
            -Cllvm-args=-sanitizer-coverage-level=3 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
            -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares
        ;;
esac
exec "$@"
