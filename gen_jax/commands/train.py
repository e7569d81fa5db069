"""`gen-jax train --config=FILE.py[:arg] --workdir=DIR [--config.key=value ...] [--num_processes=N ...]`."""

import argparse
import sys
from pathlib import Path

from gen_jax import config
from gen_jax.io import paths
from gen_jax.parallel import distributed
from gen_jax.parallel.processes import is_primary
from gen_jax.runs.run_dir import RunDir
from gen_jax.runs.tensorboard import tensorboard_command
from gen_jax.settings import defaults
from gen_jax.train import train
from gen_jax.training import same_data, seed_report

FLAGS = ("trust_checkpoints", "accept_data", "override")  # of `train`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    paths.add_config(parser)
    parser.add_argument("--workdir", type=paths.flag, required=True, help="the run directory, local or gs://")
    parser.add_argument("--deterministic", action="store_true", help="bit-exact on GPU too, and slower")
    parser.add_argument("--trust_checkpoints", action="store_true", help="continue from those whose manifests are gone")
    same_data.add_argument(parser)
    parser.add_argument(
        "--override",
        action="store_true",
        help="continue with other best.*, evals.* and optim.*.lr, skip_nonfinite, skip_above",
    )
    distributed.add_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    experiment = config.load(args.config, overrides)
    distributed.check(args)
    if distributed.is_local_trial(args):
        sys.exit(_trial(args, overrides, experiment))
    with distributed.joined(args):
        flags = {name: getattr(args, name) for name in FLAGS}
        train(experiment, args.workdir, **flags)
        if is_primary():
            several = experiment.num_seeds > 1
            print((seed_report.summary if several else summary)(RunDir(args.workdir), args.workdir))


def _trial(args: argparse.Namespace, overrides: list[str], experiment: config.Experiment) -> int:
    """The same command in several processes of this machine; what needs no device is checked once, here."""
    run_dir = RunDir(args.workdir, override=args.override)
    run_dir.check(config.to_dict(experiment), defaults(experiment))
    flags = [f"--{name}" for name in ("deterministic", *FLAGS) if getattr(args, name)]
    command = ["train", f"--config={args.config}", f"--workdir={args.workdir}", *overrides, *flags]
    return distributed.start_here(command, args.num_processes, Path(run_dir.logs))


def summary(run: RunDir, name: str) -> str:
    """The last evaluation, the latest pictures and the TensorBoard command of a finished run."""
    rows = run.rows()
    evaluated = [row for row in rows if any(not key.startswith(("train/", "step")) for key in row)]
    lines = [f"done: {name} is trained to step {rows[-1]['step']}"]
    if evaluated:
        last = evaluated[-1]
        found = {name: value for name, value in last.items() if not name.startswith(("train/", "step"))}
        lines += [f"  {name} {'not finite' if value is None else f'{value:.6g}'}" for name, value in found.items()]
    latest: dict[str, str] = {}
    for path in sorted(run.samples.glob("*.png")):
        latest[path.name.rsplit("_", 1)[0]] = paths.shortest(path)
    if latest:
        lines += ["pictures:", *(f"  {path}" for path in latest.values())]
    return "\n".join([*lines, f"curves: {tensorboard_command(paths.shortest(name))}"])
