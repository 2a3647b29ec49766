#!/usr/bin/env bash
# Compares the readers of data sets and weights with the Python packages datasets, webdataset and
# safetensors on files that the tests write. Needs Python and its registry; without them it says so and passes.
# CALUMMA_DATA_PEER_VENV: directory for the packages.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${CALUMMA_DATA_PEER_VENV:-${CARGO_TARGET_DIR:-$PWD/target}/peers-venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" || true
if ! "$venv/bin/pip" install --quiet --no-cache-dir datasets webdataset safetensors pillow; then
    echo 'SKIPPED: datasets, webdataset and safetensors cannot be installed; nothing was compared' >&2
    exit 0
fi
export CALUMMA_DATA_PEER_PYTHON=$venv/bin/python
exec cargo test --release --workspace --locked --test tests peers -- --nocapture
