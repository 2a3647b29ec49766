#!/usr/bin/env bash
# Compares this program with a directory of reference cases, made by tests/fixtures/make_hf_fixtures.py:
# one line per case. Usage: tests/parity.sh DIR
set -euo pipefail
dir=$(realpath "${1:?usage: tests/parity.sh DIR}")
cd "$(dirname "$0")/.."
exec cargo test --release --quiet --workspace --test parity -- "$dir"
