"""DiT with adaLN-zero: a Transformer over patches, conditioned through its norms (Peebles & Xie 2023)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gen_jax.core.ops import ROWS, constrain
from gen_jax.nets.caption import CaptionAttention, CaptionEncoder, Memory
from gen_jax.nets.dense import Dense
from gen_jax.nets.encoder_decoder import sinusoids
from gen_jax.nets.patches import from_patches, to_patches
from gen_jax.nets.time import Condition
from gen_jax.nets.transformer import MLP, Attention, Stack, rotary

zeros = nn.initializers.zeros
ROTARY_BASE = 100.0  # of grids, whose sides are short (Heo et al. 2024, section 3)


def rotary_2d(x: Float[Array, "B T N H"], positions: Int[Array, "#B T"], columns: int) -> Float[Array, "B T N H"]:
    """Rotary positions on a grid in raster order: half of the pairs turn by the row, half by the column."""
    row, column = jnp.split(x, 2, axis=-1)
    turned = rotary(row, positions // columns, ROTARY_BASE), rotary(column, positions % columns, ROTARY_BASE)
    return jnp.concatenate(turned, axis=-1)


def sinusoids_2d(rows: int, columns: int, width: int) -> Float[Array, "T D"]:
    """Sines and cosines of the row, then of the column, of a grid in raster order (Dosovitskiy et al. 2021)."""
    places = jnp.arange(rows * columns)
    return jnp.concatenate([sinusoids(place, width // 2) for place in (places // columns, places % columns)], axis=-1)


class Modulated(nn.Module):
    """x + gate * part(scale * norm(x) + shift) for attention, then for the MLP. The gates start at 0.

    Between them it attends to a text, if there is one (Chen et al. 2023, PixArt-alpha).
    """

    heads: int
    mlp_width: int
    dropout: float
    rotate: Callable | None
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], cache: None, condition: Float[Array, "B D"], memory: Memory | None, train: bool
    ) -> tuple[Float[Array, "B T D"], None]:
        width, xavier = x.shape[-1], nn.initializers.xavier_uniform()
        modulation = Dense(6 * width, kernel_init=zeros, name="modulation")(condition)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.split(modulation[:, None], 6, axis=-1)  # [B, 1, D]
        norm = functools.partial(nn.LayerNorm, use_scale=False, use_bias=False)
        drop = functools.partial(nn.Dropout, self.dropout, deterministic=not train)
        inits: Any = dict(kernel_init=xavier, out_init=xavier, dtype=self.dtype)
        attention = Attention(self.heads, self.heads, causal=False, rotate=self.rotate, **inits, name="attention")
        h, _ = attention((1 + scale) * norm()(x) + shift, jnp.arange(x.shape[1])[None], train=train)
        x = constrain(x + gate * drop()(h), ROWS)
        if memory is not None:
            x = constrain(x + drop()(CaptionAttention(self.heads, self.dtype, name="caption")(x, memory, train)), ROWS)
        mlp = MLP(self.mlp_width, **inits, name="mlp")
        return constrain(x + mlp_gate * drop()(mlp((1 + mlp_scale) * norm()(x) + mlp_shift)), ROWS), None


class DiT(nn.Module):
    """Images [B, H, W, C], levels [B] or [B, N] and label [B] or caption [B, S] -> [B, H, W, C], float32.

    Attributes:
      patch: side of a patch; it divides the sides of the images.
      positions: `learned`, a table that is added, `sinusoids`, a fixed one, or `rotary`, where pairs of each head turn
        by row and column.
    """

    patch: int
    layers: int
    heads: int
    width: int
    num_classes: int = 0
    vocab: int = 0
    caption_layers: int = 2
    dropout: float = 0.0
    positions: str = "learned"
    scan_layers: bool = False
    remat: str = "none"
    dtype: Any = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        level: Float[Array, "B *N"],
        label: Int[Array, "B *S"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B H W C"]:
        patches = to_patches(x, self.patch)
        b, rows, columns, values = patches.shape
        patches = patches.reshape(b, rows * columns, values)
        # in float32: bfloat16 would round the noise away where there is little
        h = Dense(self.width, kernel_init=nn.initializers.xavier_uniform(), name="patches")(patches)
        rotate = functools.partial(rotary_2d, columns=columns) if self.positions == "rotary" else None
        if self.positions == "sinusoids":
            h += sinusoids_2d(rows, columns, self.width)
        elif self.positions == "learned":
            place = nn.Embed(rows * columns, self.width, embedding_init=nn.initializers.normal(0.02), name="positions")
            h += place(jnp.arange(rows * columns))
        memory = None
        if self.vocab:
            assert label is not None
            part = self.vocab, self.caption_layers, self.heads, self.width, self.dropout, self.dtype
            memory = CaptionEncoder(*part, name="caption")(label, train)
        condition = Condition(self.width, self.num_classes, name="condition")(level, label)
        block = functools.partial(Modulated, self.heads, 4 * self.width, self.dropout, rotate, self.dtype)
        h, _ = Stack(block, self.layers, self.scan_layers, self.remat, name="blocks")(h, None, condition, memory, train)
        shift, scale = jnp.split(
            Dense(2 * self.width, kernel_init=zeros, name="last_modulation")(condition)[:, None], 2, axis=-1
        )
        h = (1 + scale) * nn.LayerNorm(use_scale=False, use_bias=False)(h) + shift
        h = Dense(values, kernel_init=zeros, name="pixels")(h.astype(jnp.float32))
        return from_patches(h.reshape(b, rows, columns, values), self.patch)
