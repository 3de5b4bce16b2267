#!/usr/bin/env bash
# Write containers/requirements-*.txt anew: every package that goes into an image, by version and hash. Needs uv.
#   containers/requirements.sh [--upgrade]
# PIP_FIND_LINKS names the page or folder with the CPU build of torch; without it, PyTorch's own page.
set -euo pipefail
cd "$(dirname "$0")/.."
cpu=(--find-links "${PIP_FIND_LINKS:-https://download.pytorch.org/whl/cpu/torch/}")
inputs=(pyproject.toml --constraint constraints.txt --constraint containers/requirements-build.txt)
# celery, which DVC asks for, has releases on both sides of python-dateutil 3; the project is tested with the newer.
celery='python-dateutil<3'

lock() { # TARGET ARGUMENT... (further requirements on stdin)
    uv pip compile --quiet --generate-hashes --no-annotate --python-version 3.11 \
        --python-platform x86_64-manylinux_2_31 --custom-compile-command containers/requirements.sh \
        --output-file "containers/requirements-$1.txt" "${@:2}" -
}

lock build "$@" <<<$'pip\nsetuptools>=77,<82'
lock cpu "$@" "${cpu[@]}" "${inputs[@]}" <<<"$celery"
lock cuda "$@" "${inputs[@]}" <<<"$celery"
lock tpu "$@" "${cpu[@]}" "${inputs[@]}" <<<"$celery"$'\ntorch-tpu==0.2.0'
