"""Data sets by the section `config.data`: its `source` names a module here."""

import importlib
from collections.abc import Mapping
from typing import Any

from gen_jax.data.base import Dataset, Source
from gen_jax.errors import ConfigError
from gen_jax.settings import nearest, shown, validate

SOURCES = (
    "digits",
    "pydoc",
    "names",
    "gaussians",
    "markov",
    "ar",
    "tfds",
    "npz",
    "image_folder",
    "unpaired",
    "colours",
    "stacked",
    "text_file",
    "token_file",
    "pairs",
    "reversal",
    "wav_folder",
    "tones",
)


def _module(source: str) -> Any:
    return importlib.import_module(f"gen_jax.data.{source}")


def list_sources() -> dict[str, str]:
    """Source -> what it is, in one line."""
    return {source: _module(source).__doc__.splitlines()[0] for source in SOURCES}


def parse(section: Any, prefix: str = "config.data") -> Source:
    """Checks the section `prefix` against the `Config` of its source.

    Raises ConfigError, which names the key and what was expected, for an unknown source or key or a wrong value.
    """
    if not isinstance(section, Mapping) or "source" not in section:
        raise ConfigError(f"{prefix}.source: expected one of {', '.join(SOURCES)}, found none")
    source = section["source"]
    if source not in SOURCES:
        raise ConfigError(f"{prefix}.source: unknown name {shown(source)}{nearest(str(source), SOURCES)}")
    return validate(_module(source).Config, dict(section), prefix)


def load(cfg: Source, seed: int) -> Dataset:
    """The data set that `cfg` names; `seed` is that of the training order. Raises DataError that says what to run."""
    return _module(cfg.source).load(cfg, seed)
