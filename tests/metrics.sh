#!/usr/bin/env bash
# Compares the metrics with their public originals on 200 corpora of captions, 10,000 answers, images and,
# for the tokenizer, every line of the given files. Needs Python, Java, the Python registry and GitHub.
# Usage: tests/metrics.sh [FILE...]
# CALUMMA_PEER_VENV: directory for the packages; CALUMMA_VQA_EVAL: a checkout of GT-Vision-Lab/VQA.
set -euo pipefail
files=()
for file in "$@"; do files+=("$(realpath "$file")"); done
cd "$(dirname "$0")/.."
venv=${CALUMMA_PEER_VENV:-${CARGO_TARGET_DIR:-$PWD/target}/metrics-venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet pycocoevalcap scikit-image pytorch-msssim pytorch-fid torchmetrics
# Only its evaluator of answers is used, which needs none of the package's hundreds of dependencies.
"$venv/bin/pip" install --quiet --no-deps lmms-eval
if [ -z "${CALUMMA_VQA_EVAL:-}" ]; then
    export CALUMMA_VQA_EVAL=$venv/VQA
    [ -d "$CALUMMA_VQA_EVAL" ] ||
        git clone --quiet --depth 1 https://github.com/GT-Vision-Lab/VQA "$CALUMMA_VQA_EVAL" ||
        echo "no checkout of GT-Vision-Lab/VQA: its part will be skipped" >&2
fi
export CALUMMA_PEER_PYTHON=$venv/bin/python
export CALUMMA_PEER_TEXTS
CALUMMA_PEER_TEXTS=$(printf '%s\n' "${files[@]}")
exec cargo test --quiet --workspace --test tests metrics -- --nocapture
