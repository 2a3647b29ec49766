#!/usr/bin/env bash
# Compares this program with a directory of reference values of PEFT and TRL: one line per case.
# Usage: tests/post_training.sh DIR BASE TOKENIZER, with the adapters' model and the tokenizer's directory
set -euo pipefail
usage="usage: tests/post_training.sh DIR BASE TOKENIZER"
dir=$(realpath "${1:?$usage}")
base=$(realpath "${2:?$usage}")
tokenizer=$(realpath "${3:?$usage}")
cd "$(dirname "$0")/.."
exec cargo test --release --quiet --workspace --test post_training -- "$dir" "$base" "$tokenizer"
