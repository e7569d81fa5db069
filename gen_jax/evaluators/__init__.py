"""Evaluators by name: a section's `type` is a file of this folder."""

import sys
from typing import Any

from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import Context, EvalConfig, Evaluator
from gen_jax.settings import named_module, validate


def parse(section: Any, prefix: str = "config.evals") -> EvalConfig:
    """The typed config of one section of `config.evals`.

    Raises:
      ConfigError: `type` names no file here, or a field is wrong.
    """
    if not isinstance(section, dict) or "type" not in section:
        raise ConfigError(f"{prefix}.type: expected the name of an evaluator, found none")
    module = named_module(sys.modules[__name__], section["type"], f"{prefix}.type")
    return validate(module.Config, section, prefix)


def build(cfg: EvalConfig, context: Context) -> Evaluator:
    """The evaluator that `cfg` asks for.

    Raises:
      ConfigError: the model or the data cannot give what it needs.
    """
    return named_module(sys.modules[__name__], cfg.type, "type").from_config(cfg, context)
