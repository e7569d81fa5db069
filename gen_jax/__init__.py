"""Generative models in JAX under one training loop.

`train(config, workdir)` trains a model; `load(workdir)` reads a trained one back, to sample and to evaluate;
`config.load("vae/digits")` reads a config. The pure functions of `core` are here too, as `gen_jax.losses`. Importing
the package does not import jax: using one of its names does.
"""

import importlib
import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen_jax import config as config
    from gen_jax.train import train
    from gen_jax.training.trained import load

    __version__: str

__all__ = ["__version__", "config", "load", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("gen_jax")
    if name in ("config", "train"):
        return importlib.import_module(f"gen_jax.{name}")  # `train` is a module that can be called
    if name == "load":
        return importlib.import_module("gen_jax.training.trained").load
    if not name.startswith("_") and importlib.util.find_spec(f"gen_jax.core.{name}"):
        return importlib.import_module(f"gen_jax.core.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
