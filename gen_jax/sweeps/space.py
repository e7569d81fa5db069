"""What a config's `sweep(s)` says: which keys a trial tries, and which metric is the goal.

    def sweep(s):
        s.maximize("val/elbo")
        s.log_uniform("optim.net.lr", 1e-4, 1e-2)
        if s.choice("optim.net.schedule", ("constant", "cosine")) == "cosine":
            s.integer("optim.net.warmup", 0, 1000)

It runs once for each trial, so that what follows may depend on what was drawn.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from gen_jax.errors import ConfigError

LARGEST_GRID = 1_000
T = TypeVar("T")


@runtime_checkable
class Draws(Protocol):
    """Where the values come from: Optuna's trial, or a walk over a grid."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int: ...
    def suggest_float(self, name: str, low: float | int, high: float | int, *, log: bool = False) -> float: ...


@dataclasses.dataclass(frozen=True)
class Point:
    """One trial. params: what was drawn. overrides: those, and what was set. metric: the goal, as `best.metric`."""

    params: dict[str, Any]
    overrides: dict[str, Any]
    metric: str
    mode: Literal["min", "max"]

    def flags(self) -> list[str]:
        """`--config.key=value` for each override."""
        return [f"--config.{key}={_text(value)}" for key, value in self.overrides.items()]


class Space:
    """The `s` of `sweep(s)`. Keys are those of the config; what draws a value also returns it."""

    def __init__(self, draws: Draws):
        self._draws = draws
        self._params: dict[str, Any] = {}
        self._overrides: dict[str, Any] = {}
        self._goals: list[tuple[str, Literal["min", "max"]]] = []

    def maximize(self, metric: str) -> None:
        """The goal: a tag of metrics.jsonl, or the part before its `@`; the last value counts."""
        self._goals.append((metric, "max"))

    def minimize(self, metric: str) -> None:
        """As `maximize`."""
        self._goals.append((metric, "min"))

    def choice(self, key: str, values: Sequence[T]) -> T:
        """One of several values; tuples too."""
        names = [json.dumps(value) for value in values]
        return self._draw(key, values[names.index(self._draws.suggest_categorical(key, names))])

    def integer(self, key: str, low: int, high: int, step: int = 1) -> int:
        """low, low + step, ... up to high."""
        return self._draw(key, self._draws.suggest_int(key, low, high, step=step))

    def uniform(self, key: str, low: float | int, high: float | int) -> float:
        """A number between low and high."""
        return self._draw(key, self._draws.suggest_float(key, low, high))

    def log_uniform(self, key: str, low: float | int, high: float | int) -> float:
        """A number whose logarithm is uniform."""
        return self._draw(key, self._draws.suggest_float(key, low, high, log=True))

    def set(self, key: str, value: Any) -> None:
        """A value that is not searched: it follows from another, or belongs to the sweep."""
        if key in self._overrides:
            raise ConfigError(f"sweep: {key}: expected once, found twice")
        self._overrides[key] = value

    def _draw(self, key: str, value: Any) -> Any:
        self.set(key, value)
        self._params[key] = value
        return value

    def point(self) -> Point:
        if len(self._goals) != 1:
            raise ConfigError(f"sweep: expected one s.maximize(metric) or s.minimize(metric), found {len(self._goals)}")
        return Point(self._params, self._overrides, *self._goals[0])


def ask(define: Callable[[Space], None], draws: Draws) -> Point:
    """Runs a config's `sweep`.

    Raises:
      ConfigError: it failed, names a key twice, or has not one goal.
    """
    space = Space(draws)
    try:
        define(space)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"sweep: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return space.point()


class NotAGrid(ConfigError):
    """A space has a range, or too many points."""


class _Walk:
    """Takes the branches `turns` of a grid, and the first of every choice beyond them."""

    def __init__(self, turns: list[int]):
        self.turns, self.sizes = turns, []
        self.values: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        place = len(self.sizes)
        self.sizes.append(len(choices))
        self.turns += [0] * (place == len(self.turns))
        self.values[name] = choices[self.turns[place]]
        return self.values[name]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        return self.suggest_categorical(name, range(low, high + 1, step))

    def suggest_float(self, name: str, low: float | int, high: float | int, *, log: bool = False) -> float:
        raise NotAGrid(f"sweep: {name}: expected choice or integer in a grid, found a range from {low} to {high}")


def grid(define: Callable[[Space], None]) -> Iterator[tuple[Point, dict[str, Any]]]:
    """Every point of a space, conditional ones too, with the values drawn; the last choice turns fastest.

    Raises:
      ConfigError: as `ask`; NotAGrid for a range, and for more than `LARGEST_GRID` points.
    """
    turns: list[int] = []
    for _ in range(LARGEST_GRID):
        walk = _Walk(turns)
        yield ask(define, walk), walk.values
        sizes = walk.sizes
        while turns and turns[-1] + 1 == sizes[len(turns) - 1]:
            turns.pop()
        if not turns:
            return
        turns[-1] += 1
    raise NotAGrid(f"sweep: expected a grid of at most {LARGEST_GRID} points, found more")


def _text(value: Any) -> str:
    """As flags take it: a sequence is a tuple."""
    return str(tuple(value)) if isinstance(value, list | tuple) else str(value)
