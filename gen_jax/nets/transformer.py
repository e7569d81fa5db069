"""Parts of a Transformer. A block is told its norm, attention and MLP as factories, `name -> module`.

One path serves training, prefill and decoding: with a cache, the T new tokens are written behind those that are there
and attend to all of them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Bool, Float, Int

from gen_jax.nets.dense import Dense

Factory = Callable[..., nn.Module]
Cache = dict[str, Any]  # of one layer: k, v [B, S, K, H]


def rotary(
    x: Float[Array, "B T N H"], positions: Int[Array, "#B T"], base: float = 10_000.0
) -> Float[Array, "B T N H"]:
    """Rotary positions (Su et al. 2021, eq. 34): pairs (x_i, x_{i + H/2}) turn by position * base^(-2i/H)."""
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half) / half)
    angle = positions[..., None, None] * frequency  # [B, T, 1, H/2]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "#B 1 T S"] | None,
    *,
    causal: bool,
) -> Float[Array, "B T N H"]:
    """softmax(q k / sqrt(H)) v; cuDNN's flash attention on a GPU where it can, XLA's own elsewhere.

    `mask` is True where attention is allowed; `causal` adds that position t sees 0 ... t.
    """
    flash = jax.default_backend() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16) and mask is None
    implementation = "cudnn" if flash else "xla"
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation=implementation)


def attention_weights(
    q: Float[Array, "B T N H"], k: Float[Array, "B S K H"], mask: Bool[Array, "#B 1 T S"] | None, *, causal: bool
) -> Float[Array, "B N T S"]:
    """What `attend` weighs the values by."""
    b, t, n, h = q.shape
    grouped = q.reshape(b, t, k.shape[2], -1, h)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k).reshape(b, n, t, -1).astype(jnp.float32) / math.sqrt(h)
    if causal:
        scores = jnp.where(jnp.tri(t, k.shape[1], dtype=bool), scores, -jnp.inf)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself.

    The kernel `qkv` is ordered by key head, then the queries that share it, its key, its value: cut over the key heads,
    each device has whole heads.

    Attributes:
      heads, kv_heads: queries, and keys that heads // kv_heads queries share (Ainslie et al. 2023).
      normalise: QK-norm (Henry et al. 2020): a factory of norms over H; None = off.
      rotate: (q or k, positions) -> the same, turned; None = off.
      causal: position t sees 0 ... t where no mask is given.
      out_init: of the output kernel.
    """

    heads: int
    kv_heads: int
    use_bias: bool = True
    normalise: Factory | None = None
    rotate: Callable | None = None
    causal: bool = True
    kernel_init: Any = initializers.normal(0.02)
    out_init: Any = initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "#B T"],
        mask: Bool[Array, "#B 1 T S"] | None = None,
        cache: Cache | None = None,
        index: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """`cache` has `index` tokens; those of `x` follow. With a cache, the mask must say what is seen."""
        b, t, d = x.shape
        kv, group, h = self.kv_heads, self.heads // self.kv_heads, d // self.heads
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype)
        qkv = dense(kv * (group + 2) * h, kernel_init=self.kernel_init, name="qkv")(x).reshape(b, t, kv, group + 2, h)
        q = qkv[..., :group, :].reshape(b, t, self.heads, h)
        k, v = qkv[..., group, :], qkv[..., group + 1, :]  # [B, T, K, H]
        if self.normalise:
            q, k = self.normalise(name="q_norm")(q), self.normalise(name="k_norm")(k)
        if self.rotate:
            q, k = self.rotate(q, positions), self.rotate(k, positions)
        if cache is not None:
            k = jax.lax.dynamic_update_slice_in_dim(cache["k"], k, index, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(cache["v"], v, index, axis=1)
            cache = {"k": k, "v": v}
        causal = self.causal and mask is None
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", attention_weights(q, k, mask, causal=causal))
        y = attend(q, k, v, mask, causal=causal).reshape(b, t, d)
        return dense(d, kernel_init=self.out_init, name="out")(y), cache


class GeluMLP(nn.Module):
    """Two layers with an exact GELU between them, as GPT-2."""

    width: int
    use_bias: bool = True
    kernel_init: Any = initializers.normal(0.02)
    out_init: Any = initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype)
        h = nn.gelu(dense(self.width, kernel_init=self.kernel_init, name="up")(x), approximate=False)
        return dense(x.shape[-1], kernel_init=self.out_init, name="down")(h)


class SwiGLU(nn.Module):
    """A gated MLP (Shazeer 2020): down(silu(gate x) * up x)."""

    width: int
    use_bias: bool = False
    kernel_init: Any = initializers.normal(0.02)
    out_init: Any = initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype)
        gate, up = (dense(self.width, kernel_init=self.kernel_init, name=name)(x) for name in ("gate", "up"))
        return dense(x.shape[-1], kernel_init=self.out_init, name="down")(nn.silu(gate) * up)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    attention: Factory
    mlp: Factory
    norm: Factory
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: Cache | None,
        positions: Int[Array, "#B T"],
        mask: Bool[Array, "#B 1 T S"] | None,
        index: Int[Array, ""] | int,
        train: bool,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        drop = functools.partial(nn.Dropout, self.dropout, deterministic=not train)
        h = self.norm(name="attention_norm")(x)
        h, cache = self.attention(name="attention")(h, positions, mask, cache, index)
        x = x + drop()(h)
        h = self.mlp(name="mlp")(self.norm(name="mlp_norm")(x))
        return x + drop()(h), cache


class Stack(nn.Module):
    """Blocks one after the other.

    Attributes:
      block: makes one.
      layers: how many.
      scan: one compiled block for all; their parameters are stacked, [L, ...], under `layers`.
      remat: what a block keeps for the gradient: all of it, the matrix products, or nothing.
    """

    block: Factory
    layers: int
    scan: bool = False
    remat: str = "none"  # none | dots | full

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], cache: Any, *args: Any) -> tuple[Float[Array, "B T D"], Any]:
        """`cache`: one a layer, stacked where `scan`, or None; `args`: what every block is given, `train` last."""

        def call(block, x, cache, *args):
            return block(x, cache, *args)

        if self.remat != "none":
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if self.remat == "dots" else None
            call = nn.remat(call, policy=policy, static_argnums=(2 + len(args),), prevent_cse=not self.scan)
        if self.scan:
            call = nn.scan(
                call,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(1, *(nn.broadcast,) * len(args)),  # pyright: ignore[reportArgumentType] - flax's annotation
                out_axes=1,
                length=self.layers,
            )
            return call(self.block(name="layers"), x, cache, *args)
        after = []
        for i in range(self.layers):
            x, one = call(self.block(name=f"block_{i}"), x, None if cache is None else cache[i], *args)
            after.append(one)
        return x, None if cache is None else tuple(after)


def empty_cache(layers: int, scan: bool, shape: tuple[int, int, int, int], dtype: Any) -> Any:
    """Zeros [B, S, K, H] for the keys and values of each layer, as `Stack` takes them."""
    if scan:
        b, *rest = shape
        return {name: jnp.zeros((b, layers, *rest), dtype) for name in ("k", "v")}
    return tuple({name: jnp.zeros(shape, dtype) for name in ("k", "v")} for _ in range(layers))
