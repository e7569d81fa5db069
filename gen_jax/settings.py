"""The base of every typed section of a config: unknown keys, wrong types and wrong ranges are refused.

A model, a data source and an evaluator each declare one `Config(Settings)` beside their code; the field
defaults there are the only defaults, and the constraint on a field (`Positive`, `Literal[...]`) is what its
error message says was expected.
"""

import difflib
import importlib
import pkgutil
import re
import reprlib
from collections.abc import Iterable
from types import ModuleType
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import Field

from gen_jax import paths
from gen_jax.errors import ConfigError

LARGEST = 2**63 - 1  # of a size
LARGEST_STEP = 2**31 - 1  # `State.step` is int32
LARGEST_SEED = 2**32 - 1


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


_NUMBER = pydantic.BeforeValidator(_number)
Positive = Annotated[int, _NUMBER, Field(gt=0, le=LARGEST)]
Count = Annotated[int, _NUMBER, Field(ge=0, le=LARGEST)]
Steps = Annotated[int, _NUMBER, Field(gt=0, le=LARGEST_STEP)]
Period = Annotated[int, _NUMBER, Field(ge=0, le=LARGEST_STEP)]  # 0 = never
Seed = Annotated[int, _NUMBER, Field(ge=0, le=LARGEST_SEED)]
PositiveFloat = Annotated[float, _NUMBER, Field(gt=0)]
NonNegative = Annotated[float, _NUMBER, Field(ge=0)]
Fraction = Annotated[float, _NUMBER, Field(ge=0, le=1)]
Decay = Annotated[float, _NUMBER, Field(ge=0, lt=1)]


def _compiles(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    return text


Regex = Annotated[str, pydantic.AfterValidator(_compiles)]


def _is_path(text: str) -> str:
    paths.expand(text)
    return text


UserPath = Annotated[str, pydantic.AfterValidator(_is_path)]  # kept as written; `paths.expand` reads it


class Settings(pydantic.BaseModel):
    """A frozen, validated section of a config."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


Section = TypeVar("Section", bound=Settings)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name that is closest, or all of them."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"


def _fields_at(cls: type, loc: tuple) -> list[str]:
    """The fields of the section that `loc` lies in."""
    for key in loc[:-1]:
        field = getattr(cls, "model_fields", {}).get(key)
        inner = field.annotation if field else cls
        args = getattr(inner, "__args__", ())
        cls = args[-1] if args and isinstance(args[-1], type) else inner
    return list(getattr(cls, "model_fields", {}))


def _message(error: pydantic.ValidationError, cls: type, prefix: str) -> str:
    """The first error as one line that names the key and what was expected."""
    first = error.errors()[0]
    key = ".".join([prefix, *map(str, first["loc"])])
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{nearest(str(first['loc'][-1]), _fields_at(cls, first['loc']))}"
    if first["type"] == "missing":
        return f"{key}: expected a value, found none"
    expected = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if not first["loc"]:
        return f"{prefix}.{expected}"
    return f"{key}: {expected}, got {reprlib.repr(first['input'])}"


def validate(cls: type[Section], section: Any, prefix: str) -> Section:
    """`cls(**section)`, checked.

    Raises:
      ConfigError: one line instead of pydantic's report: the key after `prefix`, what was expected, the nearest name.
    """
    if not isinstance(section, dict):
        raise ConfigError(f"{prefix}: expected a section, got {section!r}")
    try:
        return cls(**section)
    except pydantic.ValidationError as error:
        raise ConfigError(_message(error, cls, prefix)) from None


def named_module(package: ModuleType, name: Any, key: str) -> ModuleType:
    """`package.name`, imported by name.

    Raises:
      ConfigError: there is no such file; lists those there are. `key` is the config's key that held the name.
    """
    known = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base"]
    if name not in known:
        raise ConfigError(f"{key}: unknown name {name!r}{nearest(str(name), known)}")
    return importlib.import_module(f"{package.__name__}.{name}")
