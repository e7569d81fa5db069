"""Sources of data by name: the `source` of the section `config.data` is a file of this folder."""

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from typing import Any

from gen_jax.data.source import Dataset, Source
from gen_jax.errors import ConfigError
from gen_jax.settings import named_module, validate


def names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def list_sources() -> dict[str, str]:
    """Source -> what it is, in one line."""
    return {name: (importlib.import_module(f"{__name__}.{name}").__doc__ or "").splitlines()[0] for name in names()}


def parse(section: Any, prefix: str = "config.data") -> Source:
    """Checks the section `prefix` against the `Config` of its source.

    Raises ConfigError, which names the key and what was expected, for an unknown source or key or a wrong value.
    """
    if not isinstance(section, Mapping) or "source" not in section:
        raise ConfigError(f"{prefix}.source: expected one of {', '.join(names())}, found none")
    module = named_module(sys.modules[__name__], section["source"], f"{prefix}.source")
    return validate(module.Config, dict(section), prefix)


def load(cfg: Source, seed: int) -> Dataset:
    """The data set that `cfg` names; `seed` is that of the training order. Raises DataError that says what to run."""
    return named_module(sys.modules[__name__], cfg.source, "config.data.source").load(cfg, seed)
