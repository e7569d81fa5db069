"""`gen-jax train --config=FILE.py[:arg] --workdir=DIR [--config.key=value ...]`."""

import argparse
import os
import sys

from gen_jax import config
from gen_jax.run_dir import RunDir
from gen_jax.train import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a file with get_config(arg), as FILE.py or FILE.py:arg")
    parser.add_argument("--workdir", required=True, help="the run directory, local or gs://")
    parser.add_argument("--deterministic", action="store_true", help="bit-exact on GPU too, and slower")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    experiment = config.load(args.config, overrides)
    train(experiment, args.workdir)
    print(summary(RunDir(args.workdir), args.workdir))


def summary(run: RunDir, name: str) -> str:
    """The last evaluation, the latest pictures and the TensorBoard command of a finished run."""
    rows = run.rows()
    evaluated = [row for row in rows if any(not key.startswith(("train/", "step")) for key in row)]
    lines = [f"done: {name} is trained to step {rows[-1]['step']}"]
    if evaluated:
        last = evaluated[-1]
        lines += [f"  {k} {v:.6g}" for k, v in last.items() if not k.startswith(("train/", "step"))]
    latest: dict[str, str] = {}
    for path in sorted(run.samples.glob("*.png")):
        latest[path.name.rsplit("_", 1)[0]] = str(path)
    if latest:
        lines += ["pictures:", *(f"  {path}" for path in latest.values())]
    tensorboard = os.path.relpath(os.path.join(os.path.dirname(sys.executable), "tensorboard"))
    return "\n".join([*lines, f"curves: {tensorboard} --logdir={name}"])
