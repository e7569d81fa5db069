"""What a config is known to reach: `EXPECT` in its file, a list with an entry for each argument that was run.

EXPECT = [dict(arg="data=mnist", minutes=10, metrics=[dict(metric="test/mse", value=0.0035, tolerance=0.0005)])]
"""

from typing import Any

from gen_jax import config_file
from gen_jax.errors import ConfigError
from gen_jax.settings import NonNegative, Number, Positive, PositiveFloat, Settings, shown, validate


class Metric(Settings):
    """One number that a config reaches.

    metric: its tag in metrics.jsonl, or the part before `@`.
    value: the mean over `seeds` seeds, from the config's own on, of what the last evaluation of a run gives.
    tolerance: how far from `value` a mean over seeds may lie.
    unit: for a reader.
    published: what others reached, a bound, or a reference; `source` says which.
    """

    metric: str
    value: Number
    tolerance: NonNegative
    seeds: Positive = 1
    unit: str = ""
    published: Number | None = None
    source: str = ""


class Expectation(Settings):
    """What a config reaches under one argument.

    arg: the part after the colon. A text in it stands for any other; one that it leaves out may be anything.
    flags: `key=value` of `--config.key=value` that it needs: where the reader's data are.
    minutes: of the whole run of one seed with its evaluations, on `machine`; None = not run to its end.
    metrics: none where it was not run to its end.
    """

    arg: str = ""
    flags: tuple[str, ...] = ()
    minutes: PositiveFloat | None = None
    machine: str = "2 CPU cores"
    metrics: tuple[Metric, ...] = ()
    note: str = ""


def of_file(file: str) -> list[Expectation]:
    """All of a config's file; none where it has no `EXPECT`.

    Raises:
      ConfigError: one is wrong, has an argument that the file does not know, or the argument of another one.
    """
    written = config_file.named(file, "EXPECT", [])
    if not isinstance(written, list | tuple):
        raise ConfigError(f"--config: {file}: EXPECT: expected a list of sections, got {shown(written)}")
    found = [
        validate(Expectation, config_file.plain(one, "EXPECT"), f"--config: {file}: EXPECT[{i}]")
        for i, one in enumerate(written)
    ]
    kinds = [_kind(spec_of(file, one)) for one in found]
    for i, kind in enumerate(kinds):
        if kind in kinds[:i]:
            raise ConfigError(f"--config: {file}: EXPECT[{i}].arg: expected another one than that of an earlier entry")
    return found


def find(spec: str) -> Expectation | None:
    """That of `FILE.py[:arg]`; of several the one that names the most of its texts."""
    file, wanted = spec.partition(":")[0], _kind(spec)
    found = [(_kind(spec_of(file, one)), one) for one in of_file(file)]
    found = [(kind, one) for kind, one in found if all(kind[name] in (value, None) for name, value in wanted.items())]
    return min(found, key=lambda each: list(each[0].values()).count(None), default=(None, None))[1]


def of(spec: str) -> Expectation:
    """That of `FILE.py[:arg]`, with its metrics.

    Raises:
      ConfigError: there is none, or nothing was measured; lists the arguments that have one.
    """
    one = find(spec)
    if one and one.metrics:
        return one
    file = spec.partition(":")[0]
    known = ", ".join(spec_of(file, one) for one in of_file(file) if one.metrics)
    raise ConfigError(f"--config: {spec}: expected an entry in EXPECT with metrics; these have one: {known or 'none'}")


def spec_of(file: str, one: Expectation) -> str:
    """`FILE.py:arg`, as `--config` takes it."""
    return f"{file}:{one.arg}" if one.arg else file


def _kind(spec: str) -> dict[str, Any]:
    """The values of a config's argument; of a text "given", or None where it is left at its default."""
    declared, values = config_file.arguments(spec), config_file.argument(spec)
    texts = {name for name, default in declared.items() if isinstance(default, str)}
    return {
        name: ("given" if value != declared[name] else None) if name in texts else value
        for name, value in values.items()
    }
