"""A U-Net for denoising, conditioned through its norms, with attention at chosen sides (Dhariwal & Nichol 2021)."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gen_jax.nets.caption import CaptionAttention, CaptionEncoder, Memory
from gen_jax.nets.convolution import Conv
from gen_jax.nets.dense import Dense
from gen_jax.nets.patches import from_patches, to_patches
from gen_jax.nets.residual import group_norm
from gen_jax.nets.time import Condition
from gen_jax.nets.transformer import Attention

zeros = nn.initializers.zeros
HEAD = 32  # channels of a head of the encoder of captions


class ResBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, beside the input (a 1x1 convolution of it if the channels differ).

    The condition scales and shifts the second norm. The last convolution starts at 0.
    """

    channels: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W I"], condition: Float[Array, "B D"], train: bool
    ) -> Float[Array, "B H W O"]:
        conv = functools.partial(Conv, self.channels, dtype=self.dtype)
        h = conv()(nn.silu(group_norm(x.shape[-1], self.dtype)(x)))
        modulation = Dense(2 * self.channels, dtype=self.dtype, name="modulation")(condition)
        scale, shift = jnp.split(modulation[:, None, None], 2, axis=-1)  # [B, 1, 1, O]
        h = nn.silu((1 + scale) * group_norm(self.channels, self.dtype)(h) + shift)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv(kernel_init=zeros)(h)
        return h + (x if x.shape[-1] == self.channels else Dense(self.channels, dtype=self.dtype, name="shortcut")(x))


class MapAttention(nn.Module):
    """Self-attention over the positions of a map, beside the input; then attention to a text, if there is one."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], memory: Memory | None, train: bool) -> Float[Array, "B H W C"]:
        b, height, width, channels = x.shape
        h = group_norm(channels, self.dtype)(x).reshape(b, height * width, channels)
        attention = Attention(self.heads, self.heads, causal=False, out_init=zeros, dtype=self.dtype, name="attention")
        h, _ = attention(h, jnp.zeros((1, height * width), jnp.int32))
        x = x + h.reshape(x.shape)
        if memory is None:
            return x
        h = CaptionAttention(self.heads, self.dtype, name="caption")(x.reshape(h.shape), memory, train)
        return x + h.reshape(x.shape)


class UNet(nn.Module):
    """Images [B, H, W, C], levels [B] or [B, N] and label [B] or caption [B, S] -> [B, H, W, C], float32.

    Attributes:
      patch: side of a patch, whose pixels are the channels of the first map (Hoogeboom et al. 2023, section 3.3).
      widths: channels of the stages; each but the last halves the sides.
      blocks: residual blocks of a stage on the way down, and one more on the way up.
      attention: heights of the maps that attend, also to a caption.
    """

    patch: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    heads: int
    num_classes: int = 0
    vocab: int = 0
    caption_layers: int = 2
    dropout: float = 0.0
    dtype: Any = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        level: Float[Array, "B *N"],
        label: Int[Array, "B *S"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B H W C"]:
        memory = None
        if self.vocab:
            assert label is not None
            part = self.vocab, self.caption_layers, self.heads, HEAD * self.heads, self.dropout, self.dtype
            memory = CaptionEncoder(*part, name="caption")(label, train)
        condition = Condition(4 * self.widths[0], self.num_classes, name="condition")(level, label)
        patches, last = to_patches(x, self.patch), len(self.widths) - 1

        def block(h, width):
            h = ResBlock(width, self.dropout, self.dtype)(h, condition, train)
            return MapAttention(self.heads, self.dtype)(h, memory, train) if h.shape[1] in self.attention else h

        # in float32: bfloat16 would round the noise away where there is little
        h = Conv(self.widths[0], name="first")(patches).astype(self.dtype)
        skips = [h]
        for i, width in enumerate(self.widths):
            for _ in range(self.blocks):
                h = block(h, width)
                skips.append(h)
            if i < last:
                h = nn.avg_pool(h, (2, 2), (2, 2))
                skips.append(h)
        h = ResBlock(self.widths[-1], self.dropout, self.dtype)(h, condition, train)
        for i, width in reversed(list(enumerate(self.widths))):
            for _ in range(self.blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), width)
            if i:
                h = Conv(width, dtype=self.dtype)(h.repeat(2, axis=1).repeat(2, axis=2))
        h = nn.silu(group_norm(self.widths[0], self.dtype)(h))
        h = Conv(patches.shape[-1], kernel_init=zeros, name="pixels")(h.astype(jnp.float32))
        return from_patches(h, self.patch)
