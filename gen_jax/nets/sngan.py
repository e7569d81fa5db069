"""Residual generator and critic of Miyato et al. 2018 (appendix B.4), at any resolution, with self-attention."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gen_jax.nets.adversarial import Attention, BatchNorm, Label, Logit, Norm, Wrap, plain
from gen_jax.nets.mlp import smallest_map


def _double(x: Float[Array, "B H W C"]) -> Float[Array, "B _ _ C"]:
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _halve(x: Float[Array, "B H W C"]) -> Float[Array, "B _ _ C"]:
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def _halves(height: int, width: int) -> bool:
    """Whether the critic halves maps of these sides."""
    return min(height, width) > 8 and height % 2 == width % 2 == 0


def sides(shape: tuple[int, ...], stages: int, critic_stages: int) -> list[int]:
    """Heights of the maps of images (H, W, C) at which generator and critic of that many blocks can both attend."""
    height, width, _ = shape
    made, judged = {height >> i for i in range(stages)}, set()
    for _ in range(critic_stages):
        if _halves(height, width):
            height, width = height // 2, width // 2
            judged.add(height)
    return sorted(made & judged)


class GeneratorBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice, the sides doubled before the first; a 1x1 convolution as the shortcut."""

    features: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], label: Label, train: bool) -> Float[Array, "B _ _ F"]:
        h = _double(nn.relu(self.norm()(x, label, train)))
        h = nn.Conv(self.features, (3, 3))(h)
        h = nn.Conv(self.features, (3, 3))(nn.relu(self.norm()(h, label, train)))
        return h + _double(nn.Conv(self.features, (1, 1))(x))  # a 1x1 convolution may as well come first


class CriticBlock(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, but for the network's `first`. If it `halves`, so do the sides."""

    features: int
    halves: bool
    first: bool
    wrap: Wrap

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B _ _ F"]:
        h = self.wrap(nn.Conv(self.features, (3, 3)))(x if self.first else nn.relu(x), train)
        h = self.wrap(nn.Conv(self.features, (3, 3)))(nn.relu(h), train)
        if self.halves or x.shape[-1] != self.features:
            x = self.wrap(nn.Conv(self.features, (1, 1)))(x, train)
        return _halve(h + x) if self.halves else h + x


class ResNetGenerator(nn.Module):
    """A linear layer, a block that doubles the sides for each of `widths`, norm, ReLU and a 3x3 convolution.

    shape: of an image (H, W, C); its sides are divisible by 2**len(widths).
    widths: channels, from the smallest map to the largest. attention: side of the maps that attend; 0 = none.
    """

    shape: tuple[int, ...]
    widths: tuple[int, ...]
    norm: Norm = BatchNorm
    attention: int = 0

    @nn.compact
    def __call__(self, z: Float[Array, "B L"], label: Label, train: bool) -> Float[Array, "B H W C"]:
        x = smallest_map(z, self.shape, self.widths)
        for features in self.widths:
            x = GeneratorBlock(features, self.norm)(x, label, train)
            if x.shape[1] == self.attention:
                x = Attention()(x, train)
        return nn.tanh(nn.Conv(self.shape[-1], (3, 3))(nn.relu(self.norm()(x, label, train))))


class ResNetCritic(nn.Module):
    """A block for each of `widths`, which halves the sides while they are even and above 8; ReLU, and sums of the maps.

    widths: channels, from the largest map to the smallest. attention: side of the maps that attend; 0 = none.
    """

    widths: tuple[int, ...]
    num_classes: int = 0
    wrap: Wrap = plain
    attention: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], label: Label, train: bool) -> Float[Array, " B"]:
        for i, features in enumerate(self.widths):
            halves = _halves(*x.shape[1:3])
            x = CriticBlock(features, halves, i == 0, self.wrap)(x, train)
            if halves and x.shape[1] == self.attention:
                x = Attention(self.wrap)(x, train)
        return Logit(self.num_classes, self.wrap)(jnp.sum(nn.relu(x), (1, 2)), label, train)
