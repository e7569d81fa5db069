"""The base of every typed section of a config: unknown keys, wrong types and wrong ranges are refused.

A model, a data source and an evaluator each declare one `Config(Settings)` beside their code; the field
defaults there are the only defaults, and the constraint on a field (`Positive`, `Literal[...]`) is what its
error message says was expected.
"""

import ast
import difflib
import os
import re
import typing
import warnings
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, TypeVar

import pydantic
from pydantic import BeforeValidator, Field

from gen_jax.errors import ConfigError

LARGEST_INT = 2**63 - 1  # of numpy's and XLA's sizes
LARGEST_STEP = 2**31 - 1  # `State.step` is int32
LARGEST_SEED = 2**32 - 1
LARGEST_FEW = 1_000
LARGEST_VOCABULARY = 2**24  # the trainer of tokenisers allocates for all of it, or aborts the process
LARGEST_FLOAT, SMALLEST_FLOAT = 3.4e38, 1.2e-38  # of float32


def _whole(value: Any) -> Any:
    if isinstance(value, bool | str | bytes) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("expected an integer")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool | str | bytes):
        raise ValueError("expected a number")
    finite = isinstance(value, int | float) and abs(value) < float("inf")
    if finite and (abs(value) > LARGEST_FLOAT or 0 < abs(value) < SMALLEST_FLOAT):
        raise ValueError(f"expected 0 or a number between {SMALLEST_FLOAT} and {LARGEST_FLOAT}, as float32 holds")
    return value


def _truth(value: Any) -> Any:
    if value not in (True, False, "True", "False", "true", "false"):
        raise ValueError("expected True or False")
    return value


def _compiles(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    return text


def expand(text: str) -> str:
    """`text` with the home folder of `~` or `~user` written out; `gs://` paths stay as they are.

    Raises:
      ValueError: there is no such user, or the text cannot be a path.
    """
    if "\0" in text:
        raise ValueError("expected a path, got one with a NUL byte")
    path = os.path.expanduser(text)
    if text.startswith("~") and path == text:
        raise ValueError(f"expected a path, there is no home folder of {text.partition('/')[0]}")
    return path


def _is_path(text: str) -> str:
    expand(text)
    return text


def _is_there(text: str) -> str:
    if not text:
        raise ValueError("expected a path")
    return text


Whole = Annotated[int, Field(ge=-LARGEST_INT, le=LARGEST_INT), BeforeValidator(_whole)]
Positive = Annotated[Whole, Field(gt=0)]
Count = Annotated[Whole, Field(ge=0)]
Steps = Annotated[Positive, Field(le=LARGEST_STEP)]
Period = Annotated[Count, Field(le=LARGEST_STEP)]  # 0 = never
# of what is unrolled into the program, repeated on the host, or drawn side by side: layers, epochs, columns
Few = Annotated[Whole, Field(gt=0, le=LARGEST_FEW)]
FewOrNone = Annotated[Whole, Field(ge=0, le=LARGEST_FEW)]
Widths = Annotated[tuple[Positive, ...], Field(max_length=LARGEST_FEW)]  # one a layer
Seed = Annotated[Count, Field(le=LARGEST_SEED)]
Number = Annotated[float, BeforeValidator(_number)]
PositiveFloat = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Decay = Annotated[Number, Field(ge=0, lt=1)]
Switch = Annotated[bool, BeforeValidator(_truth)]
Regex = Annotated[str, Field(max_length=10_000), pydantic.AfterValidator(_compiles)]
UserPath = Annotated[
    str, Field(max_length=4_096), pydantic.AfterValidator(_is_path)
]  # kept as written; `expand` reads it
NeededPath = Annotated[UserPath, pydantic.AfterValidator(_is_there)]


class Flag(str):
    """The value of `--config.key=value`: the type of its field decides what the text means."""


def literal(text: str) -> Any:
    """What a text is in Python: a number, a truth value, None, a tuple, a list or a dict; else the text itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = _non_finite(text)
    return value if isinstance(value, int | float | str | tuple | list | dict | None) else text


def _non_finite(text: str) -> float | str:
    """nan and infinity, which Python writes without a literal."""
    try:
        return float(text)
    except ValueError:
        return text


def _of_flag(text: str, annotation: Any) -> Any:
    """What a flag says for a field of this type. One value alone is a tuple of it."""
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is str or (origin is typing.Literal and all(isinstance(arg, str) for arg in args)):
        return str(text)
    value = literal(text)
    return value if origin is not tuple or isinstance(value, tuple | list | dict) else (value,)


class Settings(pydantic.BaseModel):
    """A frozen, validated section of a config. The text below a field is its description: `gen-jax list` shows it."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _of_flags(cls, value: Any, info: Any) -> Any:
        return _of_flag(value, cls.model_fields[info.field_name or ""].annotation) if isinstance(value, Flag) else value


Section = TypeVar("Section", bound=Settings)
LONGEST_SHOWN = 120  # characters of a value in a message


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name that is closest, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known) or 'none'}"


def _fields_at(cls: type, loc: tuple) -> list[str]:
    """The fields of the section that `loc` lies in."""
    for key in loc[:-1]:
        field = getattr(cls, "model_fields", {}).get(key)
        inner = field.annotation if field else cls
        args = getattr(inner, "__args__", ())
        cls = args[-1] if args and isinstance(args[-1], type) else inner
    return list(getattr(cls, "model_fields", {}))


def shown(value: Any) -> str:
    """A value as an error message holds it: on one line, and not longer than a reader wants."""
    try:
        text = repr(value)
    except Exception:  # an integer of too many digits, or an object of the user's
        text = f"<{type(value).__name__}>"
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]}... ({len(text):,} characters)"


def _message(error: pydantic.ValidationError, cls: type, prefix: str) -> str:
    """The first error as one line that names the key and what was expected."""
    first = error.errors(include_url=False)[0]
    *outer, name = first["loc"] or ("",)
    key = ".".join([prefix, *map(str, first["loc"])])
    if first["type"] == "extra_forbidden":
        return f"{one_line(key)}: unknown key{nearest(str(name), _fields_at(cls, first['loc']))}"
    if first["type"] == "missing" and isinstance(name, int):
        return f"{'.'.join([prefix, *map(str, outer)])}: expected more than {name} values, got {shown(first['input'])}"
    if first["type"] == "missing":
        return f"{key}: expected a value, found none"
    if first["type"] in ("model_type", "dict_type"):
        return f"{key}: expected a section, got {shown(first['input'])}"
    expected = one_line(first["msg"].removeprefix("Value error, ").replace("Input should be", "expected"))
    if isinstance(first["input"], dict) and first["type"] == "value_error":  # of a whole section; names its key
        return f"{key.rstrip('.')}.{expected}"
    return f"{one_line(key)}: {expected}, got {shown(first['input'])}"


def require_between(key: str, value: Any, low: int, high: int) -> None:
    """Raises ConfigError, which names `key`, where a value is no integer from `low` to `high`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or not low <= value <= high:
        raise ConfigError(f"{key}: expected at least {low} and at most {high}, got {shown(value)}")


def one_line(text: str) -> str:
    """A text of the user's, such as a key, as an error message holds it."""
    return text if text.isprintable() and len(text) <= 4 * LONGEST_SHOWN else shown(text)[1:-1]


def validate(cls: type[Section], section: Any, prefix: str) -> Section:
    """`cls(**section)`, checked.

    Raises:
      ConfigError: one line instead of pydantic's report: the key after `prefix`, what was expected, the nearest name.
    """
    if not isinstance(section, dict):
        raise ConfigError(f"{prefix}: expected a section, got {shown(section)}")
    try:
        return cls.model_validate(section)
    except pydantic.ValidationError as error:
        raise ConfigError(_message(error, cls, prefix)) from None


class Defaulted(NamedTuple):
    """A field that has a default, by its key such as `model.width`."""

    key: str
    value: Any
    default: Any
    description: str


def defaulted(section: Settings, prefix: str = "") -> list[Defaulted]:
    """Every field of a section, and of those in it, that has a default."""
    rows: list[Defaulted] = []
    for name, field in type(section).model_fields.items():
        key, value = f"{prefix}{name}", getattr(section, name)
        inner = value.items() if isinstance(value, dict) else [("", value)]
        sections = [(f"{key}.{part}".rstrip("."), one) for part, one in inner if isinstance(one, Settings)]
        for path, one in sections:
            rows += defaulted(one, f"{path}.")
        if not sections and not field.is_required():
            default = field.get_default(call_default_factory=True)
            rows.append(Defaulted(key, value, default, field.description or ""))
    return rows


def defaults(section: Settings) -> dict[str, Any]:
    """The default of every field that has one, by its key."""
    return {field.key: field.default for field in defaulted(section)}
