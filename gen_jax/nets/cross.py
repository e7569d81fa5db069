"""A decoder's block that also attends to an encoder's output."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Bool, Float, Int

from gen_jax.core.ops import ROWS, constrain
from gen_jax.nets.dense import Dense
from gen_jax.nets.transformer import Cache, Factory, attend, attention_weights


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence to another one, whose `keys` are computed once; `dropout` of the weights."""

    heads: int
    width: int
    use_bias: bool = True
    dropout: float = 0.0
    kernel_init: Any = initializers.normal(0.02)
    out_init: Any = initializers.normal(0.02)
    dtype: Any = jnp.float32

    def setup(self):
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype)
        self.q = dense(self.width, kernel_init=self.kernel_init)
        self.kv = dense(2 * self.width, kernel_init=self.kernel_init)
        self.out = dense(self.width, kernel_init=self.out_init)
        self.drop = nn.Dropout(self.dropout, deterministic=False)

    def keys(self, memory: Float[Array, "B S D"]) -> Cache:
        """Keys and values, [B, N, S, H] each."""
        kv = self.kv(memory).reshape(*memory.shape[:2], self.heads, 2, -1).swapaxes(1, 2)  # [B, N, S, 2, H]
        kv = constrain(kv, ROWS, "model")
        return {"k": kv[..., 0, :], "v": kv[..., 1, :]}

    def __call__(
        self, x: Float[Array, "B T D"], keys: Cache, mask: Bool[Array, "B 1 #T S"], train: bool = False
    ) -> Float[Array, "B T D"]:
        q = constrain(self.q(x).reshape(*x.shape[:2], self.heads, -1), ROWS, None, "model")
        k, v = keys["k"].swapaxes(1, 2), keys["v"].swapaxes(1, 2)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", attention_weights(q, k, mask, causal=False))
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], x.shape[1], mask.shape[3]))
        drop = self.drop if train and self.dropout else None
        y = constrain(attend(q, k, v, mask, causal=False, drop=drop), ROWS, None, "model")
        return self.out(y.reshape(x.shape))


class DecoderBlock(nn.Module):
    """x + attention(norm(x)), then x + cross(norm(x), keys), then x + mlp(norm(x))."""

    attention: Factory
    cross_attention: Factory
    mlp: Factory
    norm: Factory
    dropout: float = 0.0

    def setup(self):
        self.attend, self.cross, self.feed = self.attention(), self.cross_attention(), self.mlp()
        self.norms = [self.norm() for _ in range(3)]
        self.drop = nn.Dropout(self.dropout)

    def keys(self, memory: Float[Array, "B S D"]) -> Cache:
        return self.cross.keys(memory)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: Cache | None,
        keys: Cache,
        positions: Int[Array, "#B T"],
        mask: Bool[Array, "#B 1 T K"],
        cross_mask: Bool[Array, "B 1 #T S"],
        index: Int[Array, ""] | int,
        train: bool,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """`cache` and `index` as in `Attention`, of what this block has seen of its own sequence."""
        first, second, third = self.norms
        h, cache = self.attend(first(x), positions, mask, cache, index, train)
        x = constrain(x + self.drop(h, deterministic=not train), ROWS)
        h = self.cross(second(x), keys, cross_mask, train)
        x = constrain(x + self.drop(h, deterministic=not train), ROWS)
        return constrain(x + self.drop(self.feed(third(x)), deterministic=not train), ROWS), cache
