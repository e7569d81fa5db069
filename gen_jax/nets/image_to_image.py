"""Image-to-image networks, and critics of patches (Zhu et al. 2017, section 7.2)."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gen_jax.nets.conv_transpose import ConvTranspose

# () -> a module [B, H, W, C] -> the same. Instance norm takes each image's own mean and scale from every channel: a
# translation cannot depend on how bright or colourful the image is as a whole
NORMS: dict[str, Callable[[], Callable[[Array], Array]]] = {"instance": nn.InstanceNorm, "none": lambda: lambda x: x}


class ReflectConv(nn.Module):
    """A convolution that keeps the sides, with the image mirrored at its border: [B, H, W, C] -> [B, H, W, F]."""

    features: int
    size: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        edge = self.size // 2
        x = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="reflect")
        return nn.Conv(self.features, (self.size, self.size), padding="VALID")(x)


class ResNetTranslator(nn.Module):
    """Images [B, H, W, C] -> images in [-1, 1] with `channels` channels and the same sides (Johnson et al. 2016).

    A convolution to `width` channels; `stages` that halve the sides and double the channels; `blocks` residual blocks;
    as many stages back. The paper has width 64, 2 stages, 9 blocks, size 7. Sides are divisible by 2**stages.
    """

    channels: int
    width: int = 64
    stages: int = 2
    blocks: int = 9
    size: int = 7  # of the first and the last kernel
    norm: str = "instance"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W _"]:
        norm = NORMS[self.norm]
        x = nn.relu(norm()(ReflectConv(self.width, self.size)(x)))
        for i in range(self.stages):
            x = nn.relu(norm()(nn.Conv(self.width << (i + 1), (3, 3), strides=2)(x)))
        width = self.width << self.stages
        for _ in range(self.blocks):
            h = nn.relu(norm()(ReflectConv(width, 3)(x)))
            x = x + norm()(ReflectConv(width, 3)(h))
        for i in reversed(range(self.stages)):
            x = nn.relu(norm()(ConvTranspose(self.width << i, size=3)(x)))
        return nn.tanh(ReflectConv(self.channels, self.size)(x))


class PatchCritic(nn.Module):
    """Images [B, H, W, C] -> a logit for each of many overlapping patches, [B, h, w] (Isola et al. 2017).

    4x4 convolutions: `stages` that halve the sides, one that does not, and the one that gives the logits, each stage
    with twice the channels of the one before, at most 8 * width. The paper has width 64 and 3 stages: patches of 70x70.
    2 stages see 34x34, 1 stage 16x16, none 7x7.
    """

    width: int = 64
    stages: int = 3
    norm: str = "instance"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w"]:
        norm = NORMS[self.norm]
        for i in range(self.stages + 1):
            strides = 2 if i < self.stages else 1
            x = nn.Conv(self.width * min(2**i, 8), (4, 4), strides=strides)(x)
            x = nn.leaky_relu(norm()(x) if i else x, 0.2)
        return nn.Conv(1, (4, 4))(x)[..., 0]
