"""Data sets by the section `config.data`: `parse` it, `load` it; and what `gen-jax data` shows of them."""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import pydantic

from gen_jax.data.base import Dataset, Feed, Info, Source
from gen_jax.errors import ConfigError

__all__ = ["Dataset", "Feed", "Info", "Source", "list_sources", "load", "parse"]

SOURCES = ("digits", "pydoc", "ring", "tfds", "npz", "image_folder", "text_file")


def _module(source: str) -> Any:
    return importlib.import_module(f"gen_jax.data.{source}")


def _nearest(name: object, names: Any) -> str:
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def list_sources() -> dict[str, str]:
    """Source -> what it is, in one line."""
    return {source: _module(source).__doc__.splitlines()[0] for source in SOURCES}


def parse(section: Mapping[str, Any]) -> Source:
    """Checks the section `config.data` against the `Config` of its source.

    Raises ConfigError, which names the key and what was expected, for an unknown source or key or a wrong value.
    """
    section = dict(section)
    source = section.get("source")
    if source not in SOURCES:
        near = _nearest(source, SOURCES)
        raise ConfigError(f"data.source: expected one of {', '.join(SOURCES)}, found {source!r}{near}")
    config = _module(source).Config
    try:
        return config(**section)
    except pydantic.ValidationError as errors:
        raise ConfigError("; ".join(_explain(error, config) for error in errors.errors())) from None


def _explain(error: Any, config: type[Source]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        names = config.model_fields
        return f"data.{key}: no such key; expected one of {', '.join(names)}{_nearest(key, names)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"data.{key}: {message}, found {error['input']!r}" if key else f"data.{message}"


def load(cfg: Source, seed: int) -> Dataset:
    """The data set that `cfg` names; `seed` is that of the training order. Raises DataError that says what to run."""
    return _module(cfg.source).load(cfg, seed)
