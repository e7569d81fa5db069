"""What a denoising network is conditioned on: levels of noise, and a class."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gen_jax.nets.dense import Dense

FREQUENCIES = 64
SLOWEST, FASTEST = 1 / 64, 4.0  # radians for each unit of a level: lambda, or what has its range, about -15 to 15


def sinusoids(level: Float[Array, "B *N"]) -> Float[Array, "B *N F"]:
    """Sines and cosines at frequencies in geometric sequence (Vaswani et al. 2017, section 3.5)."""
    frequencies = jnp.geomspace(SLOWEST, FASTEST, FREQUENCIES // 2)
    angles = level[..., None] * frequencies
    return math.sqrt(2) * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Condition(nn.Module):
    """Levels [B] or [B, N] and label [B] -> [B, width].

    The label `num_classes` stands for none. A model without classes does not read it.
    """

    width: int
    num_classes: int = 0

    @nn.compact
    def __call__(self, level: Float[Array, "B *N"], label: Int[Array, "B *S"] | None) -> Float[Array, "B D"]:
        waves = sinusoids(level).reshape(len(level), -1)
        h = Dense(self.width)(nn.silu(Dense(self.width)(waves)))
        if self.num_classes:
            h += nn.Embed(self.num_classes + 1, self.width, embedding_init=nn.initializers.normal(0.02))(label)
        return nn.silu(h)
