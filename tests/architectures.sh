#!/usr/bin/env bash
# Compares this program with a directory of small models of several architectures and transformers' outputs for
# them: one line per case. Usage: tests/architectures.sh DIR
set -euo pipefail
dir=$(realpath "${1:?usage: tests/architectures.sh DIR}")
cd "$(dirname "$0")/.."
exec cargo test --release --quiet --workspace --test architectures -- "$dir"
