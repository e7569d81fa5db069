"""Series of a stationary autoregressive process whose coefficients and entropy are known."""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from gen_jax.data.datasets import ExampleSet
from gen_jax.data.source import ExampleSource, Info, cut_arrays
from gen_jax.settings import Number, Positive, PositiveFloat

BURN_IN = 1000  # values before those that are kept


class Config(ExampleSource):
    """x_t = constant + sum_i coefficients[i] x_{t-1-i} + sigma noise."""

    source: Literal["ar"] = "ar"
    coefficients: tuple[Number, ...] = Field(default=(1.2, -0.5, 0.1), min_length=1)
    """Coefficients of the preceding values, the nearest first."""
    constant: Number = 0.5
    """Added to each value."""
    sigma: PositiveFloat = 0.3
    """Standard deviation of the noise."""
    length: Positive = 64
    """Values of a series."""
    examples: Positive = 2_000
    """In all splits together."""

    @property
    def drawn_bytes(self) -> int:
        return 8 * 2 * self.examples * (BURN_IN + self.length)

    @model_validator(mode="after")
    def _stable(self) -> "Config":
        if radius(np.array(self.coefficients)) >= 0.999:
            raise ValueError("coefficients: expected those of a stable process, whose roots lie inside the unit circle")
        return self


def radius(coefficients: Float[np.ndarray, " K"]) -> float:
    """Of the largest root of the characteristic polynomial; a process is stable below 1."""
    return float(np.abs(np.roots(np.append(1, -coefficients))).max(initial=0))


def series(cfg: Config, n: int, rng: np.random.Generator) -> Float[np.ndarray, "N T"]:
    """n series from the stationary distribution."""
    coefficients = np.array(cfg.coefficients)
    k = len(coefficients)
    noise = cfg.sigma * rng.standard_normal((n, BURN_IN + cfg.length))
    values = np.zeros((n, k + BURN_IN + cfg.length))
    for t in range(noise.shape[1]):
        values[:, k + t] = cfg.constant + values[:, t : k + t] @ coefficients[::-1] + noise[:, t]
    return values[:, -cfg.length :].astype(np.float32)


def load(cfg: Config, seed: int) -> ExampleSet:
    """Vectors [N, length], drawn from `split_seed`; `seed` is that of the training order."""
    vector = series(cfg, cfg.examples, np.random.default_rng(cfg.split_seed))
    entropy = 0.5 * math.log(2 * math.pi * math.e * cfg.sigma**2)
    return ExampleSet(
        Info("vector", (cfg.length,), entropy=entropy), cut_arrays({"train": {"vector": vector}}, cfg), seed
    )
