"""`gen-jax reproduce --config=FILE.py[:arg] [--seeds=3] [--workdir=D]`: trains a config, compares it with its `EXPECT`.

Each seed is an ordinary run in `D/seed_<n>`; the same command continues where the last one stopped.
"""

import argparse
import os
import re
from pathlib import Path

import numpy as np

from gen_jax import config
from gen_jax.commands.compare import last
from gen_jax.config import Experiment
from gen_jax.errors import ConfigError, RunError
from gen_jax.io import paths
from gen_jax.results import expected
from gen_jax.results.expected import Metric
from gen_jax.runs import metric_tags, tables
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import LARGEST_SEED, defaults, nearest
from gen_jax.train import train
from gen_jax.training import checks
from gen_jax.training.program import Program

FOLDER = "runs/reproduce"
LARGEST = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    paths.add_config(parser)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from the config's own on (default 1)")
    parser.add_argument(
        "--workdir", type=paths.flag, help=f"its runs (default: a folder in {FOLDER}/ named after the config)"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    wanted = expected.of(args.config)
    experiments = seeds(config.load(args.config, overrides), args.seeds)
    workdir = args.workdir or default(args.config)
    runs = [RunDir(os.path.join(workdir, f"seed_{one.seed}")) for one in experiments]
    for experiment, run in zip(experiments, runs, strict=True):  # before the first of them is trained
        run.check(config.to_dict(experiment), defaults(experiment))
    _check_metrics(args.config, wanted, Program(experiments[0]))
    for experiment, run in zip(experiments, runs, strict=True):
        train(experiment, run.path)
    found = [Found(one, [last(run, one.metric)[2] for run in runs]) for one in wanted.metrics]
    print(report(found))
    minutes = f"; expected {wanted.minutes:g} minutes each on {wanted.machine}" if wanted.minutes else ""
    print(f"runs: {paths.shortest(workdir)}{minutes}")
    if outside := "; ".join(one.miss() for one in found if not one.within()):
        raise RunError(outside)


def _check_metrics(spec: str, wanted: expected.Expectation, program: Program) -> None:
    """Raises ConfigError for a metric that a trained run would not have."""
    known = checks.reported(program)
    for one in wanted.metrics:
        name = metric_tags.name_of(one.metric)
        if name not in known and not name.startswith("train/"):
            wrong = f"expected a metric of its evaluators, got {one.metric!r}{nearest(name, known)}"
            raise ConfigError(f"--config: {spec}: EXPECT: {wrong}")


class Found:
    """A metric of a config, and what its runs reached.

    Args:
      wanted: what was expected.
      values: one a seed; None where it was not finite.
    """

    def __init__(self, wanted: Metric, values: list[float | None]):
        self.wanted = wanted
        self.values = np.array([np.nan if value is None else value for value in values], np.float64)  # [S]
        self.mean = self.values.mean()

    def within(self) -> bool:
        return bool(abs(self.mean - self.wanted.value) <= self.wanted.tolerance * (1 + 1e-9))

    def miss(self) -> str:
        one = self.wanted
        return f"{one.metric}: expected {one.value:.6g} within {one.tolerance:.4g}, got {self.mean:.6g}"

    def row(self) -> list[str]:
        one = self.wanted
        deviation = f"{self.values.std(ddof=1):.4g}" if len(self.values) > 1 else "-"
        published = "-" if one.published is None else f"{one.published:.6g} ({one.source})"
        numbers = [f"{self.mean:.6g}", deviation, f"{one.value:.6g}", f"{one.tolerance:.4g}", published]
        return [one.metric, *numbers, "ok" if self.within() else "outside"]


def report(found: list[Found]) -> str:
    """A row a metric: mean and deviation over the seeds beside what was expected and what others reached."""
    head = ["metric", "mean", "deviation", "expected", "tolerance", "published", ""]
    return "\n".join(tables.aligned([head, *(one.row() for one in found)]))


def seeds(experiment: Experiment, n: int) -> list[Experiment]:
    """The experiment with each seed.

    Raises:
      ConfigError: it trains several seeds of its own, or there are not that many.
    """
    first = experiment.seed
    if experiment.num_seeds > 1:
        raise ConfigError(f"config.num_seeds: expected 1 beside --seeds, got {experiment.num_seeds}")
    if not 1 <= n <= min(LARGEST, LARGEST_SEED - first + 1):
        raise ConfigError(f"--seeds: expected 1 to {min(LARGEST, LARGEST_SEED - first + 1)}, got {n}")
    return [experiment.model_copy(update={"seed": seed}) for seed in range(first, first + n)]


def default(spec: str) -> str:
    """The folder of the runs of `experiments/vae/digits.py:k=5`: `runs/reproduce/vae_digits_k_5`."""
    file, _, arg = spec.partition(":")
    path = Path(file)
    words = [path.parent.name, path.stem, *re.findall(r"[\w.-]+", arg)]
    return os.path.join(FOLDER, "_".join(filter(None, words)))
