"""What the tests that run over every model and every config share."""

import pkgutil
from pathlib import Path

import jax
import numpy as np

import gen_jax.models
from gen_jax import config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("experiments/*/*.py"))
MODELS = sorted(m.name for m in pkgutil.iter_modules(gen_jax.models.__path__) if m.name != "base")

# the smallest config of each model
SMALLEST = {
    "vae": "experiments/vae/digits.py",
    "vqvae": "experiments/vqvae/digits.py",
    "code_prior": "experiments/vqvae/digits_prior.py",
    "gan": "experiments/gan/ring.py",
    "cyclegan": "experiments/cyclegan/digits.py",
    "vaegan": "experiments/vaegan/digits.py",
    "encoder_decoder": "experiments/encoder_decoder/reversal.py",
    "linear_ar": "experiments/linear_ar/ar.py",
    "lstm": "experiments/lstm/pydoc.py",
    "transformer": "experiments/transformer/shakespeare_char_cpu.py",
    "pixel_transformer": "experiments/transformer/digits_pixels.py",
    "wavenet": "experiments/wavenet/spoken_digit.py",
}


def smoke(path: str, *flags: str, devices: int = 1) -> config.Experiment:
    """The config's `:smoke` on `devices` devices, with flags `key=value`."""
    return config.load(f"{path}:smoke", [f"--config.mesh.data={devices}", *(f"--config.{flag}" for flag in flags)])


def assert_same(a, b):
    """Two trees are equal bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))
