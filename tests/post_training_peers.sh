#!/usr/bin/env bash
# Opens adapters with PEFT, trains beside TRL, loss by loss, and opens extended text models and saved models of every kind
# with transformers. Needs Python and its registry (6 GB with PyTorch, removed afterwards); without them it says so and passes.
# CALUMMA_POST_TRAINING_VENV: directory for the packages, which then stay there.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${CALUMMA_POST_TRAINING_VENV:-}" ]; then
    venv=$CALUMMA_POST_TRAINING_VENV
else
    venv=${CARGO_TARGET_DIR:-$PWD/target}/post-training-venv
    trap 'rm -rf "$venv"' EXIT
fi
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" || true
if ! "$venv/bin/pip" install --quiet --no-cache-dir --no-compile \
    torch==2.15.0 transformers==5.24.0 peft==0.21.2 trl==1.16.0 accelerate==1.15.0; then
    echo 'SKIPPED: torch, transformers, peft and trl cannot be installed; nothing was compared' >&2
    exit 0
fi
export CALUMMA_POST_TRAINING_PYTHON=$venv/bin/python
cargo test --release --workspace --locked --test tests -- post_training_peers extend_peers --nocapture
cargo test --release --quiet --workspace --locked --test architectures
