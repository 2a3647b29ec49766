#!/usr/bin/env bash
# Compares the readers of data sets and weights with the Python packages datasets, webdataset and
# safetensors on files that the tests write. Needs Python and its registry.
# CALUMMA_DATA_PEER_VENV: directory for the packages.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${CALUMMA_DATA_PEER_VENV:-${CARGO_TARGET_DIR:-$PWD/target}/peers-venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet datasets webdataset safetensors pillow
export CALUMMA_DATA_PEER_PYTHON=$venv/bin/python
exec cargo test --quiet --workspace --test tests peers -- --nocapture
