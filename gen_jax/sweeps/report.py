"""What a sweep leaves to read: results.csv, a table, pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from optuna.trial import FrozenTrial, TrialState

from gen_jax.runs import plots, tables
from gen_jax.runs.run_dir import write_atomic
from gen_jax.sweeps import pictures
from gen_jax.sweeps.definition import Definition

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def columns(definition: Definition, trials: list[FrozenTrial]) -> tuple[list[str], str]:
    """The parameters that any trial drew, and the whole tag of the goal."""
    keys = dict.fromkeys(key for trial in trials for key in trial.user_attrs.get("params", {}))
    tags = (trial.user_attrs["tag"] for trial in trials if "tag" in trial.user_attrs)
    return [*keys], next(tags, definition.first.metric)


def rows(definition: Definition, trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """A row a trial: trial, state, step, the metric, the parameters, reason. A pruned one has the metric so far."""
    keys, tag = columns(definition, trials)
    return [
        {
            "trial": trial.number,
            "state": STATES.get(trial.state, "running"),
            "step": trial.user_attrs.get("step", ""),
            tag: "" if trial.value is None else trial.value,
            **{key: trial.user_attrs.get("params", {}).get(key, "") for key in keys},
            "reason": trial.user_attrs.get("reason", ""),
        }
        for trial in trials
    ]


def write_csv(definition: Definition, trials: list[FrozenTrial], path: Path) -> None:
    """results.csv, in the order of the trials."""
    write_atomic(epath.Path(path), tables.to_csv(rows(definition, trials)))


def table(definition: Definition, trials: list[FrozenTrial]) -> str:
    """The trials in columns: the complete ones first, the best of them on top."""
    sign = -1 if definition.first.mode == "max" else 1
    order = list(STATES)

    def place(trial: FrozenTrial) -> tuple:
        state = order.index(trial.state) if trial.state in order else len(order)
        return state, float("inf") if trial.value is None else sign * trial.value

    found = rows(definition, sorted(trials, key=place))
    cells = [[_short(name) for name in found[0]], *([_short(value) for value in row.values()] for row in found)]
    return "\n".join(tables.aligned(cells))


def draw(definition: Definition, trials: list[FrozenTrial], folder: Path) -> list[Path]:
    """parameters.png: the metric against each parameter; best.png: the best so far. Returns their paths."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    values = np.array([trial.value for trial in complete], np.float64)
    keys = dict.fromkeys(key for trial in complete for key in trial.user_attrs["params"])
    drawn = {key: [trial.user_attrs["params"].get(key) for trial in complete] for key in keys}
    numbers = np.array([trial.number for trial in complete])
    made = {
        "parameters": pictures.responses(drawn, values, definition.first.metric, _logs(definition.tried)),
        "best": pictures.best_so_far(numbers, values, definition.first.metric, maximize=definition.first.mode == "max"),
    }
    for name, picture in made.items():
        write_atomic(epath.Path(folder / f"{name}.png"), plots.png(picture))
    return [folder / f"{name}.png" for name in made]


def _logs(tried: dict[str, list[Any]]) -> frozenset[str]:
    """The keys that the sweep draws on a logarithmic scale."""
    drawn = ((key, form) for key, forms in tried.items() for form in forms if isinstance(form, dict))
    return frozenset(key for key, form in drawn if form.get("attributes", {}).get("log"))


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
