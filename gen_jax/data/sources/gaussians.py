"""A mixture of Gaussians with known centres, on a ring or a grid: 2-D points that show which modes a model has lost."""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import model_validator

from gen_jax.core.info import Mixture
from gen_jax.data.datasets import ExampleSet
from gen_jax.data.source import ExampleSource, Info, cut_arrays
from gen_jax.settings import Positive, PositiveFloat


class Config(ExampleSource):
    """A mixture of equal Gaussians in the plane."""

    source: Literal["gaussians"] = "gaussians"
    layout: Literal["ring", "grid"] = "ring"
    """Layout of the centres."""
    modes: Positive = 8
    """Gaussians; on a grid, a square number."""
    radius: PositiveFloat = 2.0
    """Radius of the ring, or half a side of the grid."""
    sigma: PositiveFloat = 0.02
    """Standard deviation of each Gaussian."""
    examples: Positive = 50_000
    """In all splits together."""

    @property
    def drawn_bytes(self) -> int:
        return 8 * 2 * (self.modes + self.examples)

    @model_validator(mode="after")
    def _square(self) -> "Config":
        if self.layout == "grid" and math.isqrt(self.modes) ** 2 != self.modes:
            raise ValueError(f"modes: expected a square number beside layout 'grid', got {self.modes}")
        return self


def ring(modes: int, radius: float) -> Float[np.ndarray, "M 2"]:
    """Centres on a circle, the first on the right, counter-clockwise."""
    angle = 2 * np.pi * np.arange(modes) / modes
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def grid(modes: int, radius: float) -> Float[np.ndarray, "M 2"]:
    """Centres on a square grid over [-radius, radius]^2, row by row."""
    side = np.linspace(-radius, radius, math.isqrt(modes))
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def load(cfg: Config, seed: int) -> ExampleSet:
    """Points float32 [N, 2], drawn from `split_seed`; `seed` is that of the training order."""
    centres = {"ring": ring, "grid": grid}[cfg.layout](cfg.modes, cfg.radius)
    rng = np.random.default_rng([cfg.split_seed, cfg.modes])
    mode = rng.integers(0, cfg.modes, cfg.examples)
    noise = cfg.sigma * rng.standard_normal((cfg.examples, 2), np.float32)
    vector = centres.astype(np.float32)[mode] + noise.astype(np.float32)
    info = Info("vector", (2,), mixture=Mixture(tuple(map(tuple, centres.tolist())), cfg.sigma))
    return ExampleSet(info, cut_arrays({"train": {"vector": vector}}, cfg), seed)
