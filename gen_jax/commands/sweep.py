"""`gen-jax sweep --config=FILE.py[:arg] --workdir=DIR [--search=tpe --trials=16 --workers=2 --config.key=value]`."""

import argparse
import os
import sys
from pathlib import Path

from etils import epath

from gen_jax.errors import ConfigError
from gen_jax.spool import is_remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a file with get_config(arg) and sweep(s)")
    parser.add_argument("--workdir", required=True, help="a local directory; each trial is a run in its trials/")
    parser.add_argument("--search", choices=("grid", "random", "tpe", "asha"), default="tpe")
    parser.add_argument("--trials", type=int, default=0, help="in all; default: the whole grid, 16 of another search")
    parser.add_argument("--workers", type=int, default=1, help="trials at once")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    for name, low in (("workers", 1), ("trials", 0)):
        if getattr(args, name) < low:
            raise ConfigError(f"--{name}: expected at least {low}, got {getattr(args, name)}")
    if is_remote(args.workdir):
        raise ConfigError(f"--workdir: expected a local directory for a sweep, got {args.workdir}")
    from gen_jax.log import write_hparams_columns
    from gen_jax.sweeps import report  # Optuna takes seconds to import: not before a mistake can be told
    from gen_jax.sweeps.plan import plan
    from gen_jax.sweeps.sweep import Sweep

    made, folder = plan(args.config, overrides, args.search), Path(os.path.abspath(os.path.expanduser(args.workdir)))

    def write(trials: list) -> None:
        report.write_csv(made, trials, folder / "results.csv")

    trials = Sweep(made, folder, trials=args.trials, workers=args.workers, on_end=write).run()
    write(trials)
    parameters, goal = report.columns(made, trials)
    write_hparams_columns(epath.Path(folder / "tb"), parameters, [goal])
    print(report.table(made, trials))
    names = [os.path.relpath(path) for path in (folder / "results.csv", *report.draw(made, trials, folder))]
    print("\n".join(["written:", *(f"  {name}" for name in names)]))
    tensorboard = os.path.relpath(os.path.join(os.path.dirname(sys.executable), "tensorboard"))
    print(f"curves and hyperparameters: {tensorboard} --logdir={args.workdir}")
