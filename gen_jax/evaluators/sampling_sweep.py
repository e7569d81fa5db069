"""What another evaluator finds as the model's sampling changes: FID against steps for each solver, against guidance."""

import itertools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
from pydantic import Field, model_validator

from gen_jax import evaluators
from gen_jax.core.state import State
from gen_jax.errors import ConfigError
from gen_jax.evaluators import evaluator
from gen_jax.evaluators.speed import network_evaluations
from gen_jax.runs import metric_tags, plots
from gen_jax.settings import LARGEST_FEW

OWN = ("split", "prefix", "when")  # fields that the sweep gives to `of`
WIDE = 10  # an axis whose values span such a factor is logarithmic
FLOOR = "_floor"
Point = Mapping[str, Any]  # field of `Sampling` -> value


class Config(evaluator.EvalConfig):
    """What is varied, and what is measured."""

    of: dict[str, Any]
    """The section of the evaluator that runs at each point, such as `dict(type="generation", n=1_000)`."""
    over: dict[str, tuple[Any, ...]] = Field(min_length=1)
    """{field of the model's `Sampling`: its values}. All combinations are points."""
    along: str
    """The field of `over` that runs along a curve. Each combination of the others' values is a curve."""
    axis: Literal["value", "network_evaluations"] = "value"
    """The horizontal axis: the values of `along`, or the network evaluations of a sample."""
    shown: tuple[str, ...] = ()
    """Scalars with a picture, without what follows their `@`; empty = all."""
    when: Literal["always", "end"] = "end"
    """At each evaluation, or once at the end; `best` can only name a metric of each evaluation."""

    @model_validator(mode="after")
    def _fit_together(self) -> "Config":
        if self.along not in self.over:
            raise ValueError(f"along: expected a field of over, {', '.join(self.over)}; got {self.along!r}")
        if not 1 <= len(self.points) <= LARGEST_FEW:
            raise ValueError(f"over: expected 1 to {LARGEST_FEW} combinations, got {len(self.points)}")
        if given := [name for name in OWN if name in self.of]:
            raise ValueError(f"of.{given[0]}: expected none, it is the sweep's own")
        try:
            measured = evaluators.parse(self.of, "of")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if not isinstance(measured, evaluator.SampledConfig):
            raise ValueError(f"of.type: expected an evaluator that samples, {measured.type} does not")
        return self

    @property
    def points(self) -> list[Point]:
        return [dict(zip(self.over, values, strict=True)) for values in itertools.product(*self.over.values())]

    def at(self, point: Point) -> evaluator.SampledConfig:
        """The section `of` at a point."""
        sampling = {**self.of.get("sampling", {}), **point}
        found: Any = evaluators.parse({**self.of, "split": self.split, "sampling": sampling}, "of")
        return found

    @property
    def splits(self) -> tuple[str, ...]:
        return self.at({}).splits


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """The scalars of `of` at each point, whose tags name the point by its fields of `Sampling`.

    One picture a scalar, `<name>_by_<axis>`: curves over the axis, and its `_floor` where there is one. With the axis
    `network_evaluations` these are scalars, too. The pictures of `of` are not kept.

    Raises:
      ConfigError: the model cannot sample at a point, or `of` gives no scalar that `shown` names.
    """
    sections = [cfg.at(point) for point in cfg.points]
    built = [_built(section, point, context) for section, point in zip(sections, cfg.points, strict=True)]

    def evaluate(state: State) -> evaluator.Report:
        report, found = evaluator.Report(), []
        for point, section, one in zip(cfg.points, sections, built, strict=True):
            context.poll()
            measured = one(state)
            if cfg.axis == "network_evaluations":
                calls = network_evaluations(context, context.options(section), state)
                measured.scalars |= context.tagged(section, {"network_evaluations": calls})
            report.scalars |= measured.scalars
            report.warnings += [f"{_said(point)}: {line}" for line in measured.warnings]
            found.append({metric_tags.name_of(tag): value for tag, value in measured.scalars.items()})
        report.images = _pictures(cfg, found)
        return report

    def trace(state: State, batch: dict, rng: jax.Array) -> Any:
        return [one.trace(state, batch, rng) for one in built]

    def names(traced: Any) -> list[str]:
        each = [one.names(part) for one, part in zip(built, traced, strict=True)]
        return list(dict.fromkeys(itertools.chain(*each)))

    return evaluator.Evaluator(evaluate, trace, names, max(one.draws for one in built))


def _built(section: evaluator.SampledConfig, point: Point, context: evaluator.Context) -> evaluator.Evaluator:
    try:
        return evaluators.build(section, context)
    except ConfigError as error:
        raise ConfigError(f"evals: sampling_sweep: over: {_said(point)}: {error}") from None


def _said(point: Point) -> str:
    return ", ".join(f"{field}={value}" for field, value in point.items())


def _pictures(cfg: Config, found: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """Of the scalars at each point, by name."""
    axis = cfg.along if cfg.axis == "value" else cfg.axis
    known = [name for name in found[0] if not name.endswith(FLOOR) and name != cfg.axis]
    evaluator.require(not (unknown := {*cfg.shown} - {*known}), f"sampling_sweep: shown: {unknown}", ", ".join(known))
    return {f"{name}_by_{axis}": _picture(cfg, name, axis, found) for name in cfg.shown or known}


def _picture(cfg: Config, name: str, axis: str, found: list[dict[str, float]]) -> np.ndarray:
    curves: dict[str, list[tuple[float, float]]] = {}
    for point, values in zip(cfg.points, found, strict=True):
        others = {field: value for field, value in point.items() if field != cfg.along}
        x = point[cfg.along] if cfg.axis == "value" else values[axis]
        curves.setdefault(_said(others) or name, []).append((x, values[name]))
        if f"{name}{FLOOR}" in values:
            curves.setdefault("real images", []).append((x, values[f"{name}{FLOOR}"]))
    numeric = all(isinstance(x, int | float) for pairs in curves.values() for x, _ in pairs)
    series = {}
    for label, pairs in curves.items():
        points = sorted(dict(pairs).items()) if numeric else [(str(x), y) for x, y in pairs]
        x, y = zip(*points, strict=True)
        series[label] = np.array(x), np.array(y, np.float64)
    xs, ys = (np.concatenate(values) for values in zip(*series.values(), strict=True))
    log: Any = "x" * (numeric and _is_wide(xs)) + "y" * _is_wide(ys)
    what = axis.replace("_", " ") + (" a sample" if axis == "network_evaluations" else "")
    return plots.lines(series, title=f"{name} by {what}", axes=(what, name), log=log)


def _is_wide(values: np.ndarray) -> bool:
    return bool(values.min() > 0 and values.max() >= WIDE * values.min())
