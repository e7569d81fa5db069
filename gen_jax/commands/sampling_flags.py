"""The flags of `gen-jax sample` that the model's `Sampling` declares: `--sampling.FIELD=VALUE`, or `--FIELD=VALUE`."""

import contextlib
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from gen_jax.config import Experiment
from gen_jax.core.sampling import Sampling
from gen_jax.errors import ConfigError
from gen_jax.io import field_text
from gen_jax.settings import Flag, nearest, one_line

WIDTH = 100


def parse(flags: list[str], experiment: Experiment, others: Iterable[str]) -> dict[str, Any]:
    """Field -> value, as `Program.sampling` takes them.

    Args:
      flags: `--sampling.FIELD=VALUE` or `--FIELD=VALUE`.
      others: the names of the command's own flags, which a wrong one may be near to.

    Raises:
      ConfigError: the model has no such option (names the nearest), or the same one is asked for by two names.
    """
    cls, given = type(experiment.sampling), {}
    repeated = _repeated(cls)
    for flag in flags:
        written, _, text = flag.partition("=")
        name = written.removeprefix("--").removeprefix("sampling.")
        if isinstance(given.get(field := repeated.get(name, name)), Flag if name in repeated else list):
            raise ConfigError(f"{one_line(written)}: expected nothing else that gives {field}")
        if name in repeated:
            given.setdefault(field, []).append(text)
        elif name in cls.model_fields:
            given[name] = Flag(text)
        else:
            known = [*cls.model_fields, *repeated, *others]
            model = experiment.model_name
            raise ConfigError(f"{one_line(written)}: the model {model} has no such option{nearest(name, known)}")
        if "=" not in flag:
            raise ConfigError(f"{one_line(written)}: expected a value")
    return given


def _repeated(cls: type[Sampling]) -> dict[str, str]:
    """Flags that may be given several times -> the fields that hold all of their values."""
    extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
    return {str(extra["flag"]): name for name, extra in extras.items() if isinstance(extra, dict) and "flag" in extra}


@contextlib.contextmanager
def named() -> Iterator[None]:
    """An error names the flag instead of the key of the config."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"--{str(error).removeprefix('config.sampling.')}") from None


def described(experiment: Experiment) -> str:
    """The options of the run's model, one after the other: flag, type, default, what it does."""
    cls = type(experiment.sampling)
    if not cls.model_fields:
        return f"The model of this run, {experiment.model_name}, has no options of its own."
    lines = [
        f"options of this run's model, {experiment.model_name} (--temperature is short for --sampling.temperature):"
    ]
    repeated = {field: flag for flag, field in _repeated(cls).items()}
    for name, kind, _, text in field_text.rows(cls):
        flag = f"--{repeated[name]} (repeatable) or --sampling.{name}" if name in repeated else f"--{name}"
        lines.append(f"  {flag}: {kind}, default {getattr(experiment.sampling, name)!r}")
        lines += textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
