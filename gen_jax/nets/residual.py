"""Residual encoder and decoder."""

import math

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from gen_jax.nets.conv_transpose import ConvTranspose
from gen_jax.nets.mlp import Activation, smallest_map


def group_norm(channels: int, dtype: jax.typing.DTypeLike) -> nn.GroupNorm:
    """GroupNorm of 8 groups, or the most that divide `channels` together with 8."""
    return nn.GroupNorm(math.gcd(8, channels), dtype=dtype)


class ResBlock(nn.Module):
    """Norm, activation and 3x3 convolution, twice, beside the identity (He et al. 2016b): [B, H, W, C] -> the same."""

    activation: Activation = nn.relu
    dtype: jax.typing.DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels, zeros = x.shape[-1], nn.initializers.zeros  # a block is the identity at first
        h = self.activation(group_norm(channels, self.dtype)(x))
        h = nn.Conv(channels, (3, 3), dtype=self.dtype)(h)
        h = self.activation(group_norm(channels, self.dtype)(h))
        return x + nn.Conv(channels, (3, 3), kernel_init=zeros, dtype=self.dtype)(h)


class ResidualEncoder(nn.Module):
    """Images [B, H, W, C] -> features [B, F]: at each stage a stride-2 convolution and a block."""

    widths: tuple[int, ...]
    activation: Activation = nn.relu
    dtype: jax.typing.DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        for width in self.widths:
            x = nn.Conv(width, (4, 4), strides=2, dtype=self.dtype)(x)
            x = ResBlock(self.activation, self.dtype)(x)
        x = self.activation(group_norm(self.widths[-1], self.dtype)(x))
        return x.reshape(len(x), -1)


class ResidualDecoder(nn.Module):
    """Latents [B, D] -> images [B, *shape]: at each stage a block and a stride-2 transposed convolution."""

    shape: tuple[int, int, int]
    widths: tuple[int, ...]
    activation: Activation = nn.relu
    dtype: jax.typing.DTypeLike = "float32"

    @nn.compact
    def __call__(self, z: Float[Array, "B D"]) -> Float[Array, "B H W C"]:
        x = smallest_map(z, self.shape, self.widths, self.dtype)
        for width in (*self.widths[1:], self.shape[-1]):
            x = ResBlock(self.activation, self.dtype)(x)
            x = self.activation(group_norm(x.shape[-1], self.dtype)(x))
            x = ConvTranspose(width, dtype=self.dtype)(x)
        return x
