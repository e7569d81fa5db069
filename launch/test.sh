#!/usr/bin/env bash
# Installs and runs the checks: style, types, tests.
# Usage: bash launch/test.sh [pytest arguments]; `-m slow` runs the long ones.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/env.sh test plan
.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/pyright
exec .venv/bin/python -m pytest -n "${TEST_WORKERS:-2}" --dist=loadfile --max-worker-restart=0 "$@"
