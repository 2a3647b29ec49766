#!/usr/bin/env bash
# Compares the losses of post-training with a directory of reference values (preference.json, reward.json,
# rl.json), one line per case. Usage: tests/post_training.sh DIR
set -euo pipefail
CALUMMA_POST_TRAINING=$(realpath "${1:?usage: tests/post_training.sh DIR}")
export CALUMMA_POST_TRAINING
cd "$(dirname "$0")/.."
exec cargo test --release --quiet --workspace --test tests post_training -- --nocapture --test-threads 1
