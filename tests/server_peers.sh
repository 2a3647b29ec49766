#!/usr/bin/env bash
# `calumma serve` with the shipped checkpoint before OpenAI's Python client and Inspect, and its page before a browser. Needs Python with its
# registry, and Chromium, which it installs if it may; without them it says so and passes.
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
install() { "$venv/bin/pip" install --quiet --no-cache-dir "$@"; }
has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; } > /dev/null

if ! install openai==3.57.0 openapi-spec-validator==0.9.0 pillow==13.0.0; then
    echo 'SKIPPED: openai, openapi-spec-validator and pillow cannot be installed; no client and no browser was tried' >&2
    exit 0
fi
cargo build --release --locked --features grammar
"$venv/bin/python" tests/server_client.py "$target/release/calumma" checkpoints/demo
if install inspect-ai==0.3.285; then
    "$venv/bin/python" tests/server_eval.py "$target/release/calumma" checkpoints/demo
else
    echo 'SKIPPED: inspect-ai cannot be installed; no second client was tried' >&2
fi

if ! has_browser && [ "$(id -u)" = 0 ]; then
    { apt-get update && apt-get install --yes --no-install-recommends chromium fonts-dejavu-core; } > /dev/null || true
fi
if ! has_browser || ! install playwright==1.65.2 axe-playwright-python==0.1.8; then
    echo 'SKIPPED: Chromium, playwright or axe-playwright-python cannot be installed; the page was not tried' >&2
    exit 0
fi
"$venv/bin/python" tests/server_page.py "$target/release/calumma" checkpoints/demo "$target/page"
