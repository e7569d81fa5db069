"""`gen-jax sweep --config=FILE.py[:arg] --workdir=DIR [--search=tpe --trials=16 --workers=2 --config.key=value]`."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from etils import epath

from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.io.gcs import is_remote

if TYPE_CHECKING:
    from gen_jax.sweeps.sweep import Sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    paths.add_config(parser)
    parser.add_argument(
        "--workdir", type=paths.flag, required=True, help="a local directory; each trial is a run in its trials/"
    )
    parser.add_argument("--search", choices=("grid", "random", "tpe", "asha"), default="tpe")
    parser.add_argument("--trials", type=int, help="in all; default: the whole grid, 16 of another search")
    parser.add_argument("--workers", type=int, default=1, help="trials at once")
    parser.add_argument("--trial", type=int, help="train this one only, by itself; a sweep by grid or random")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    sweep = sweep_of(args, overrides)
    if args.trial is not None:
        command = sweep.trial_command(args.trial)
        sweep.begin()
        sys.stdout.flush()
        os.execv(command[0], command)
    from gen_jax.runs.tensorboard import tensorboard_command, write_hparams_columns
    from gen_jax.sweeps import report

    def write(trials: list) -> None:
        report.write_csv(sweep.definition, trials, sweep.path / "results.csv")

    sweep.on_end = write
    trials = sweep.run()
    write(trials)
    parameters, goal = report.columns(sweep.definition, trials)
    write_hparams_columns(epath.Path(sweep.path), parameters, [goal])
    print(report.table(sweep.definition, trials))
    paths = (sweep.path / "results.csv", *report.draw(sweep.definition, trials, sweep.path))
    print("\n".join(["written:", *(f"  {os.path.relpath(path)}" for path in paths)]))
    print(f"curves and hyperparameters: {tensorboard_command(args.workdir)}")


def sweep_of(args: argparse.Namespace, overrides: list[str]) -> "Sweep":
    """What the arguments say, checked; nothing is written.

    Raises:
      ConfigError: they do not fit each other, or the folder.
    """
    for name, value in (("workers", args.workers), ("trials", args.trials)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name}: expected at least 1, got {value}")
    if is_remote(args.workdir):
        raise ConfigError(f"--workdir: expected a local directory for a sweep, got {args.workdir}")
    # Optuna takes seconds to import: not before a mistake can be reported
    from gen_jax.sweeps.definition import definition
    from gen_jax.sweeps.sweep import Sweep

    return Sweep(
        definition(args.config, overrides, args.search), args.workdir, trials=args.trials, workers=args.workers
    )
