"""Convolutional encoder and decoder: 4x4 kernels, stride 2."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from gen_jax.nets.conv_transpose import ConvTranspose
from gen_jax.nets.mlp import Activation, smallest_map


class ConvEncoder(nn.Module):
    """Images [B, H, W, C] -> features [B, F]; each stage halves the sides and has its own number of channels."""

    widths: tuple[int, ...]
    activation: Activation = nn.relu
    dtype: jax.typing.DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        for width in self.widths:
            x = self.activation(nn.Conv(width, (4, 4), strides=2, dtype=self.dtype)(x))
        return x.reshape(len(x), -1)


class ConvDecoder(nn.Module):
    """Latents [B, D] -> images [B, *shape]; each stage doubles the sides, sides are divisible by 2**len(widths)."""

    shape: tuple[int, int, int]
    widths: tuple[int, ...]
    activation: Activation = nn.relu
    dtype: jax.typing.DTypeLike = "float32"

    @nn.compact
    def __call__(self, z: Float[Array, "B D"]) -> Float[Array, "B H W C"]:
        x = smallest_map(z, self.shape, self.widths, self.dtype)
        for width in (*self.widths[1:], self.shape[-1]):
            x = ConvTranspose(width, dtype=self.dtype)(self.activation(x))
        return x
