#!/usr/bin/env bash
# Installs, then runs gen-jax as the launch scripts do: the pinned packages, malloc's settings.
# Usage: bash launch/local.sh train --config=FILE.py --workdir=DIR [--num_processes=2]
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/env.sh
exec .venv/bin/gen-jax "$@"
