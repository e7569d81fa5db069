"""Convolutional generator and critic of Radford et al. 2016, at any resolution."""

import flax.linen as nn
from jaxtyping import Array, Float

from gen_jax.nets.adversarial import BatchNorm, Identity, Label, Logit, Norm, Wrap, plain
from gen_jax.nets.conv_transpose import Conv, ConvTranspose
from gen_jax.nets.mlp import smallest_map


class DCGANGenerator(nn.Module):
    """A linear layer and a stride-2 transposed convolution for each of `widths`, norm and ReLU before each of them.

    shape: of an image (H, W, C); its sides are divisible by 2**len(widths).
    widths: channels of the features, from the smallest map to the largest.
    hidden: features of a dense layer before all others; 0 = none.
    """

    shape: tuple[int, ...]
    widths: tuple[int, ...]
    norm: Norm = BatchNorm
    hidden: int = 0

    @nn.compact
    def __call__(self, z: Float[Array, "B L"], label: Label, train: bool) -> Float[Array, "B H W C"]:
        if self.hidden:
            z = nn.relu(self.norm()(nn.Dense(self.hidden)(z), label, train))
        x = smallest_map(z, self.shape, self.widths)
        for features in (*self.widths[1:], self.shape[-1]):
            x = ConvTranspose(features)(nn.relu(self.norm()(x, label, train)))
        return nn.tanh(x)


class DCGANCritic(nn.Module):
    """A 4x4 stride-2 convolution and leaky ReLU for each of `widths`, norm between them except in the first.

    widths: channels of the features, from the largest map to the smallest.
    hidden: features of a dense layer after all others; 0 = none.
    """

    widths: tuple[int, ...]
    num_classes: int = 0
    norm: Norm = Identity
    wrap: Wrap = plain
    hidden: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], label: Label, train: bool) -> Float[Array, " B"]:
        for i, features in enumerate(self.widths):
            x = self.wrap(Conv(features))(x, train)
            x = nn.leaky_relu(self.norm()(x, label, train) if i else x, 0.2)
        x = x.reshape(len(x), -1)
        if self.hidden:
            x = self.wrap(nn.Dense(self.hidden))(x, train)
            x = nn.leaky_relu(self.norm()(x, label, train), 0.2)
        return Logit(self.num_classes, self.wrap)(x, label, train)
