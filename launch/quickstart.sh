#!/usr/bin/env bash
# Installs, trains a VAE on embedded handwritten digits, shows what came of it.
# Usage: bash launch/quickstart.sh [--config.key=value ...]
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/env.sh
exec .venv/bin/gen-jax train --config=experiments/vae/digits.py --workdir=runs/quickstart "$@"
