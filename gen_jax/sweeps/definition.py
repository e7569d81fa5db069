"""What a sweep is, read from its config and checked before any trial."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import optuna

from gen_jax import config as configs
from gen_jax import config_file
from gen_jax.errors import ConfigError
from gen_jax.sweeps import space

Search = Literal["grid", "random", "tpe", "asha"]
PROBES = 20  # draws that are checked before the first trial
ETA = 3  # asha: of the trials that came to a rung, one in ETA continues; the next rung is ETA times as far


@dataclasses.dataclass(frozen=True)
class Definition:
    """What a sweep is; two that differ are not continued.

    spec, overrides: as `gen-jax train` takes them. define: the config's `sweep`. first: a point that it may give.
    tried: what it draws and sets, by key: of a grid the values of all trials, else the distributions (JSON).
    grid: the values of all trials, where they are known: in order for `grid`, shuffled for `random` and `asha` over a
      space without ranges, so that none is tried twice.
    rung: steps before asha first judges, a ninth of all; 0 = it never does.
    """

    spec: str
    overrides: list[str]
    search: Search
    experiment: configs.Experiment
    define: Callable[[space.Space], None]
    first: space.Point
    tried: dict[str, list[Any]]
    grid: list[dict[str, Any]]
    rung: int = 0

    def identity(self) -> dict[str, Any]:
        """As JSON types."""
        goal, config = f"{self.first.mode}imize {self.first.metric}", configs.to_dict(self.experiment)
        return {"search": self.search, "goal": goal, "space": self.tried, "config": config}

    def sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A trial's own: its draws do not depend on other trials or on restarts of the sweep."""
        seed = int(np.random.SeedSequence([self.experiment.seed, number]).generate_state(1)[0])
        return (optuna.samplers.TPESampler if self.search == "tpe" else optuna.samplers.RandomSampler)(seed=seed)

    def drawn(self, number: int) -> space.Point:
        """The point of a trial of `grid` or `random`, which does not depend on the others."""
        study = optuna.create_study(sampler=self.sampler(number))
        for values in self.grid[number : number + 1]:
            study.enqueue_trial(values)
        return space.ask(self.define, study.ask())

    def load(self, point: space.Point) -> configs.Experiment:
        """The config of a trial. Raises ConfigError."""
        return configs.replaced(self.experiment, point.overrides)


def definition(spec: str, overrides: list[str], search: Search) -> Definition:
    """Reads a config and its sweep; a grid is checked whole, another search at `PROBES` random points.

    Raises:
      ConfigError: one line, as `config.load` and `space.ask`.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    experiment, define = configs.load(spec, overrides), config_file.sweep(spec)
    points, drawn, values = _points(define, search, experiment.seed)
    made = Definition(spec, overrides, search, experiment, define, points[0], drawn, values)
    given = {override.partition("=")[0].removeprefix("--config.") for override in overrides}
    for point in points:
        if (point.metric, point.mode) != (points[0].metric, points[0].mode):
            raise ConfigError(f"sweep: expected one goal, found {points[0].metric} and {point.metric}")
        if both := sorted(given & point.overrides.keys()):
            raise ConfigError(f"--config.{both[0]}: expected no value beside the one of sweep(s)")
        trial = made.load(point)
        if search == "asha":
            key = "log_every" if point.metric.startswith("train/") else "eval_every"
            every = getattr(trial, key)
            if not 0 < every < trial.total_steps:
                raise ConfigError(
                    f"config.{key}: expected a period below total_steps for asha to judge by, got {every}"
                )
            made = dataclasses.replace(made, rung=max(made.rung, every, trial.total_steps // ETA**2))
    return made


def _points(
    define: Callable[[space.Space], None], search: Search, seed: int
) -> tuple[list[space.Point], dict[str, list[Any]], list[dict[str, Any]]]:
    """All points, `Definition.tried` and the values in the order of the trials; some points and no values, if drawn."""
    try:
        walked = [] if search == "tpe" else list(space.grid(define))
    except space.NotAGrid:
        if search == "grid":
            raise
        walked = []
    if walked:
        order = range(len(walked)) if search == "grid" else np.random.default_rng(seed).permutation(len(walked))
        keys = dict.fromkeys(key for point, _ in walked for key in point.overrides)
        columns = {key: [_plain(point.overrides.get(key)) for point, _ in walked] for key in keys}
        return [walked[i][0] for i in order], columns, [walked[i][1] for i in order]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    points, found = [], {}
    for _ in range(PROBES):
        trial = study.ask()
        points.append(space.ask(define, trial))
        for key, value in points[-1].overrides.items():
            drawn = trial.distributions.get(key)
            form = json.loads(optuna.distributions.distribution_to_json(drawn)) if drawn else _plain(value)
            if form not in found.setdefault(key, []):
                found[key].append(form)
    return points, found, []


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=str))
