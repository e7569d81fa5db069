"""A mixture of Gaussians whose centres lie on a circle: 2-D points that show which modes a model has lost."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from gen_jax.data.base import ExampleSource, Info, cut_arrays
from gen_jax.data.datasets import ExampleSet
from gen_jax.settings import Positive, PositiveFloat


class Config(ExampleSource):
    """modes: on the circle; radius: of the circle; sigma: of each Gaussian; examples: in all splits together."""

    source: Literal["ring"] = "ring"
    modes: Positive = 8
    radius: PositiveFloat = 2.0
    sigma: PositiveFloat = 0.02
    examples: Positive = 50_000


def centres(modes: int = 8, radius: float = 2.0) -> Float[np.ndarray, "M 2"]:
    """The centres, the first on the right, counter-clockwise."""
    angle = 2 * np.pi * np.arange(modes) / modes
    return (radius * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32)


def load(cfg: Config, seed: int) -> ExampleSet:
    """Points float32 [N, 2], drawn from `split_seed`; `seed` is that of the training order."""
    rng = np.random.default_rng([cfg.split_seed, cfg.modes])
    mode = rng.integers(0, cfg.modes, cfg.examples)
    noise = cfg.sigma * rng.standard_normal((cfg.examples, 2), np.float32)
    vector = centres(cfg.modes, cfg.radius)[mode] + noise.astype(np.float32)
    return ExampleSet(Info("vector", (2,)), cut_arrays({"train": {"vector": vector}}, cfg), seed)
