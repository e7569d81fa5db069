"""What the tests that run over every model and every config share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import gen_jax.models
from gen_jax import cli, config, config_file
from gen_jax.core.info import Info
from gen_jax.io import modules

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("experiments/*/*.py"))
MODELS = modules.names(gen_jax.models)

# the config of each model that most tests train; of other models it is the first that names them, but no bench
CHOSEN = {
    "gan": "experiments/gan/ring.py",
    "masked_diffusion": "experiments/masked_diffusion/digits.py:conditional",
    "encoder_decoder": "experiments/encoder_decoder/reversal.py",
    "latent_diffusion": "experiments/diffusion/latents.py",
    "lstm": "experiments/lstm/pydoc.py",
    "transformer": "experiments/transformer/shakespeare_char_cpu.py",
}


def variants(path: str, files: str = "") -> list[str]:
    """A config as it is, and with each of its arguments but smoke, as `path:data=mnist`.

    Args:
      files: what stands for files of the reader's own; "" leaves out the arguments that name them.
    """
    words: list[str] = []
    for name, default in config_file.arguments(f"{ROOT}/{path}").items():
        if isinstance(default, tuple):
            words += [f"{name}={choice}" for choice in default[1:]]
        elif isinstance(default, str):
            words += [f"{name}={files}"] if files else []
        elif name != "smoke":
            words.append(name if default is False else f"{name}={default + 1}")
    return [path, *(f"{path}:{word}" for word in words)]


VARIANTS = [spec for path in CONFIGS for spec in variants(path)]
SMALLEST = dict(CHOSEN)
for spec in sorted(VARIANTS, key=lambda spec: "bench" in spec):
    SMALLEST.setdefault(config_file.read(f"{ROOT}/{spec}")["model_name"], spec)
# and a second network of a model, which keeps the same promises
MEMBERS = SMALLEST | {"unet": "experiments/diffusion/bench.py:net=unet"}
QUICK = {"gan", "linear_ar", "transformer", "vae"}  # the default run tests these


def some_slow(names: Iterable[str], quick: set[str] = QUICK) -> list:
    """Parameters of a test, one for each model or config: all but the quick ones are long tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in sorted(names)]


def smoke_spec(path: str) -> str:
    """`FILE.py:smoke`, or `FILE.py:ARG,smoke`."""
    return f"{path}{',' if ':' in path else ':'}smoke"


def smoke(path: str, *flags: str, devices: int = 1) -> config.Experiment:
    """The config's `:smoke`, or `:ARG,smoke`, on `devices` devices, with flags `key=value`."""
    return config.load(
        smoke_spec(path),
        [f"--config.mesh.data={devices}", *(f"--config.{flag}" for flag in flags)],
    )


def asks(cls: type, info: Info, encode: Any = None) -> dict[str, Any]:
    """What a `Context` of a model without a config says of its `Sampling`."""
    return {"sampling": lambda section: cls(**section), "prepared": lambda options: options.prepared(info, encode)}


def assert_same(a, b):
    """Two trees are equal bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def sample(workdir, *flags):
    """The exit code of `gen-jax sample`."""
    try:
        cli.main(["sample", f"--workdir={workdir}", *flags])
    except SystemExit as stop:
        return stop.code
    return 0
