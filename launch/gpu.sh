#!/usr/bin/env bash
# Times GPT-2 (124M, bf16, context 1024) on a GPU, in turn with other programs given as name=command; each prints JSON.
# Then the digits VAE, one seed and eight as one program: the ratio of their examples_per_s is the gain (goal: 3).
# Usage: bash launch/gpu.sh ['torch=python baselines.py gpt2_124m --compile' ...]; ROUNDS=3, SECONDS_EACH=20, PYTHON=...
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
for round in $(seq "${ROUNDS:-3}"); do
  for entry in "$@"; do
    result=$(bash -c "${entry#*=}" | tail -n 1)
    echo "round $round ${entry%%=*}: $result"
  done
  result=$("$python" -m gen_jax.cli bench --config=experiments/transformer/bench.py:size=gpt2 --config.platform=gpu \
    --seconds="${SECONDS_EACH:-20}" | tail -n 1)
  echo "round $round gen_jax: $result"
  for seeds in 1 8; do
    result=$("$python" -m gen_jax.cli bench --config=experiments/vae/digits.py --config.platform=gpu --config.mesh.data=1 \
      --config.num_seeds="$seeds" --seconds="${SECONDS_EACH:-20}" | tail -n 1)
    echo "round $round vae, $seeds seeds: $result"
  done
done
