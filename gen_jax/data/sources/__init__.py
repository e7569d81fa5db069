"""Sources of data by name: the `source` of the section `config.data` is a file of this folder."""

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from gen_jax.data.source import Dataset, Source
from gen_jax.errors import ConfigError
from gen_jax.io import modules
from gen_jax.settings import validate


def known() -> list[str]:
    return modules.names(sys.modules[__name__])


def list_sources() -> dict[str, str]:
    """Source -> what it is, in one line."""
    return {name: (importlib.import_module(f"{__name__}.{name}").__doc__ or "").splitlines()[0] for name in known()}


def module(name: Any, key: str = "config.data.source") -> ModuleType:
    """The module of a source: a file of this folder, or one of the user's. Raises ConfigError, which names `key`."""
    return modules.named_module(sys.modules[__name__], name, key, Source, "load")


def parse(section: Any, prefix: str = "config.data") -> Source:
    """Checks the section `prefix` against the `Config` of its source.

    Raises ConfigError, which names the key and what was expected, for an unknown source or key or a wrong value.
    """
    if not isinstance(section, Mapping) or "source" not in section:
        raise ConfigError(f"{prefix}.source: expected one of {', '.join(known())}, found none")
    return validate(module(section["source"], f"{prefix}.source").Config, dict(section), prefix)


def load(cfg: Source, seed: int) -> Dataset:
    """The data set that `cfg` names; `seed` is that of the training order. Raises DataError that says what to run."""
    return module(cfg.source).load(cfg, seed)
