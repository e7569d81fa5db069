"""Evaluators by name: a section's `type` is a file of this folder, or a module of the user's."""

import sys
from types import ModuleType
from typing import Any

from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import Context, EvalConfig, Evaluator
from gen_jax.io import modules
from gen_jax.settings import validate


def module(name: Any, key: str = "type") -> ModuleType:
    """The module of an evaluator: a file of this folder, or the user's. Raises ConfigError, which names `key`."""
    return modules.named_module(sys.modules[__name__], name, key, EvalConfig, "from_config")


def parse(section: Any, prefix: str = "config.evals") -> EvalConfig:
    """The typed config of one section of `config.evals`.

    Raises:
      ConfigError: `type` names no file here, or a field is wrong.
    """
    if not isinstance(section, dict) or "type" not in section:
        raise ConfigError(f"{prefix}.type: expected the name of an evaluator, found none")
    return validate(module(section["type"], f"{prefix}.type").Config, section, prefix)


def build(cfg: EvalConfig, context: Context) -> Evaluator:
    """The evaluator that `cfg` asks for.

    Raises:
      ConfigError: the model or the data cannot give what it needs.
    """
    return module(cfg.type).from_config(cfg, context)
