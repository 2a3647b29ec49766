#!/usr/bin/env bash
# OpenAI's Python client against `calumma serve` with the shipped checkpoint. Needs Python and its registry; without them it
# says so and passes.
# CALUMMA_SERVER_VENV: directory for the packages, which then stay there.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
if [ -n "${CALUMMA_SERVER_VENV:-}" ]; then
    venv=$CALUMMA_SERVER_VENV
else
    venv=$target/server-venv
    trap 'rm -rf "$venv"' EXIT
fi
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" || true
if ! "$venv/bin/pip" install --quiet --no-cache-dir openai==3.57.0 pillow==13.0.0; then
    echo 'SKIPPED: openai and pillow cannot be installed; no client was tried' >&2
    exit 0
fi
cargo build --release --locked --features grammar
"$venv/bin/python" tests/server_client.py "$target/release/calumma" checkpoints/demo
