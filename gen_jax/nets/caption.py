"""Conditioning of a network on a text: an encoder of captions, and attention to what it gives."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gen_jax.nets import transformer as nets
from gen_jax.nets.cross import CrossAttention
from gen_jax.nets.encoder_decoder import sinusoids


class Memory(NamedTuple):
    """A text as a network attends to it."""

    vectors: Any  # [B, S, D]
    mask: Any  # bool [B, 1, 1, S], True where there is a word


class CaptionEncoder(nn.Module):
    """A Transformer over the words of a text. Tokens 0 pad; a text without words is its first token, 0."""

    vocab: int
    layers: int
    heads: int
    width: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, tokens: Int[Array, "B S"], train: bool) -> Memory:
        positions = jnp.arange(tokens.shape[1])[None]
        mask = ((tokens > 0) | (positions == 0))[:, None, None]
        table = nn.Embed(self.vocab, self.width, embedding_init=nn.initializers.normal(1.0), name="token")
        x = nets.look_up(table.embedding, tokens) + sinusoids(positions, self.width)
        norm = functools.partial(nn.LayerNorm, dtype=self.dtype)
        inits: Any = dict(kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype)
        attention = functools.partial(nets.Attention, self.heads, self.heads, causal=False, **inits)
        block = functools.partial(
            nets.Block, attention, functools.partial(nets.MLP, 4 * self.width, **inits), norm, self.dropout
        )
        stack, pairs = nets.Stack(block, self.layers, name="blocks"), jnp.repeat(mask, tokens.shape[1], axis=2)
        x, _ = stack(x.astype(self.dtype), None, positions, pairs, 0, train)
        return Memory(norm(name="norm")(x), mask)


class CaptionAttention(nn.Module):
    """Attention of each position to the words of a text, of norm(x). It starts at 0."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], memory: Memory, train: bool) -> Float[Array, "B T D"]:
        inits: Any = dict(kernel_init=nn.initializers.xavier_uniform(), out_init=nn.initializers.zeros)
        cross = CrossAttention(self.heads, x.shape[-1], dtype=self.dtype, **inits, name="cross")
        return cross(nn.LayerNorm(dtype=self.dtype, name="norm")(x), cross.keys(memory.vectors), memory.mask, train)
