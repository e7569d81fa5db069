"""The fields of a section of a config as text for people: type, default, description."""

import types
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gen_jax.settings import Settings, shown

BOUNDS = {annotated_types.Gt: ("gt", ">"), annotated_types.Ge: ("ge", ">="), annotated_types.Lt: ("lt", "<")}
BOUNDS[annotated_types.Le] = ("le", "<=")
LARGE = 2**31 - 1  # larger bounds are those of a machine's numbers


class Row(typing.NamedTuple):
    """A field by its key in the section, such as `recipe.widths`; `default` is "required" where it has none."""

    key: str
    type: str
    default: str
    description: str


def rows(section: type[Settings], prefix: str = "") -> Iterator[Row]:
    """All fields of a section, and of the sections in it; without the one that names the section's own file."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings) and inner is not Settings:
            yield from rows(inner, f"{prefix}{name}.")
        elif name not in ("source", "type"):
            default = field.get_default(call_default_factory=True)
            text = "required" if default is PydanticUndefined else shown(default)
            yield Row(f"{prefix}{name}", _field_type(field), text, field.description or "")


def required(section: type[Settings]) -> list[str]:
    """The keys of a section that have no default."""
    return [row.key for row in rows(section) if row.default == "required"]


def summary(text: str) -> str:
    """The first paragraph of a description, on one line."""
    return " ".join(text.partition("\n\n")[0].split())


def _field_type(field: FieldInfo) -> str:
    return type_text(field.annotation) + _bounds(field.metadata)


def type_text(annotation: Any) -> str:
    """A type as people write it: `int > 0`, `'adam' | 'sgd'`, `tuple of int > 0`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return type_text(args[0]) + _bounds(args[1:])
    if origin is Literal:
        return " | ".join(map(repr, args))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_text, args))
    if origin is tuple and args[-1] is Ellipsis:
        return f"tuple of {type_text(args[0])}"
    if args:
        return f"{origin.__name__}[{', '.join(map(type_text, args))}]"
    return "None" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def _bounds(metadata: Iterable[Any]) -> str:
    """The tightest bounds among constraints, such as ` >= 0, <= 1`."""
    found: dict[str, float] = {}
    for one in metadata:
        for constraint in one.metadata if isinstance(one, FieldInfo) else [one]:
            if (bound := BOUNDS.get(type(constraint))) and abs(value := getattr(constraint, bound[0])) < LARGE:
                found[bound[1]] = value
    if ">" in found and found.get(">=", found[">"]) <= found[">"]:
        found.pop(">=", None)
    return "".join(f"{',' if i else ''} {sign} {value:g}" for i, (sign, value) in enumerate(found.items()))
