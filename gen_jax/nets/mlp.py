"""Fully connected networks on flat vectors and on images."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation = Callable[[jax.Array], jax.Array]
ACTIVATIONS: dict[str, Activation] = {"relu": nn.relu, "tanh": nn.tanh, "gelu": nn.gelu, "silu": nn.silu}


class MLP(nn.Module):
    """Dense layers with `activation` after each of them: [B, D] -> [B, widths[-1]]; no layers, no change."""

    widths: tuple[int, ...]
    activation: Activation = nn.relu
    dtype: jax.typing.DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B _"]) -> Float[Array, "B _"]:
        for width in self.widths:
            x = self.activation(nn.Dense(width, dtype=self.dtype)(x))
        return x


class MLPEncoder(nn.Module):
    """Images [B, H, W, C] -> features [B, widths[-1]]."""

    widths: tuple[int, ...]
    activation: Activation = nn.relu
    dtype: jax.typing.DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B _"]:
        return MLP(self.widths, self.activation, self.dtype)(x.reshape(len(x), -1))


class GaussianHead(nn.Module):
    """Features [B, F] -> mean and log-variance [B, D] of a posterior."""

    latent: int

    @nn.compact
    def __call__(self, h: Float[Array, "B F"]) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        mean, log_var = jnp.split(nn.Dense(2 * self.latent)(h), 2, axis=-1)
        return mean, log_var


def smallest_map(
    z: Float[Array, "B D"], shape: tuple[int, ...], widths: tuple[int, ...], dtype: jax.typing.DTypeLike = "float32"
) -> Float[Array, "B h w C"]:
    """A linear layer of the calling module to the smallest map, with widths[0] channels, before stages of `widths`.

    Each stage doubles the sides, up to those of images of `shape` (H, W, C).
    """
    h, w = (side >> len(widths) for side in shape[:2])
    return nn.Dense(h * w * widths[0], dtype=dtype)(z).reshape(-1, h, w, widths[0])


class MLPDecoder(nn.Module):
    """Latents [B, D] -> images [B, *shape] through `widths` and a linear layer."""

    shape: tuple[int, int, int]
    widths: tuple[int, ...]
    activation: Activation = nn.relu
    dtype: jax.typing.DTypeLike = "float32"

    @nn.compact
    def __call__(self, z: Float[Array, "B _"]) -> Float[Array, "B H W C"]:
        z = MLP(self.widths, self.activation, self.dtype)(z)
        return nn.Dense(math.prod(self.shape), dtype=self.dtype)(z).reshape(-1, *self.shape)
