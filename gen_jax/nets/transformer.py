"""Parts of a Transformer. A block takes its norm, attention and MLP as factories, `name -> module`.

One code path serves training, prefill and decoding: with a cache, the T new tokens are appended to the cached ones and
attend to all of them.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Bool, Float, Int

from gen_jax.core import ops
from gen_jax.core.ops import ROWS, constrain
from gen_jax.nets.dense import Dense

Factory = Callable[..., nn.Module]
Cache = dict[str, Any]  # of one layer: k, v [B, K, S, H], the layout that decoding reads fast


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


def attention_weights(
    q: Float[Array, "B T N H"], k: Float[Array, "B S N H"], mask: Bool[Array, "#B 1 T S"] | None, *, causal: bool
) -> Float[Array, "B N T S"]:
    """softmax(q k / sqrt(H)), float32. `mask` is True where attention is allowed. `causal`: position t sees 0 ... t."""
    scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    if causal:
        mask = jnp.tri(q.shape[1], k.shape[1], dtype=bool)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "#B 1 T S"] | None,
    *,
    causal: bool,
    drop: Callable | None = None,
) -> Float[Array, "B T N H"]:
    """Each query's weighted mean of the values, with N // K queries to a key.

    `drop`, if given, acts on the weights [B, N, T, S] first. On a GPU this is flash attention if there is neither
    `drop` nor a mask, and no `ops.forward_mode`: `jax.nn.dot_product_attention` has no dropout and no `jax.jvp`.
    """
    plain = mask is not None or drop is not None or ops.in_forward_mode()
    if ops.platform() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16) and not plain:
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    weights = attention_weights(q, k, mask, causal=causal).astype(v.dtype)
    weights = drop(weights) if drop else weights
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def look_up(table: Float[Array, "V D"], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """The token embeddings."""
    table = constrain(table, "model")  # cut over D, it would be read by every device for all rows
    return constrain(jnp.take(table, tokens, axis=0), ROWS)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x/2 (1 + erf(x / sqrt 2)), exact; `jax.nn.gelu` takes erfc, with which GPTs train 20 % slower on a CPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself.

    The kernel `qkv` is ordered by key head, then the queries that share it, its key, its value: cut over the key heads,
    each device has whole heads.

    Attributes:
      heads, kv_heads: queries, and keys that heads // kv_heads queries share (Ainslie et al. 2023).
      normalise: QK-norm (Henry et al. 2020): a factory of norms over H; None = off.
      rotate: (q or k, positions) -> the same, turned; None = off.
      causal: position t sees 0 ... t where no mask is given.
      dropout: of the weights, in training.
      out_init: of the output kernel.
    """

    heads: int
    kv_heads: int
    use_bias: bool = True
    normalise: Factory | None = None
    rotate: Callable | None = None
    causal: bool = True
    dropout: float = 0.0
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
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """`cache` holds `index` tokens; those of `x` follow. With a cache, the mask must say what is visible."""
        b, t, d = x.shape
        kv, group, h = self.kv_heads, self.heads // self.kv_heads, d // self.heads
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype)
        qkv = dense(kv * (group + 2) * h, kernel_init=self.kernel_init, name="qkv")(x).reshape(b, t, kv, group + 2, h)
        qkv = constrain(qkv, ROWS, None, "model")
        q = qkv[..., :group, :].reshape(b, t, self.heads, h)
        k, v = qkv[..., group, :], qkv[..., group + 1, :]  # [B, T, K, H]
        if self.normalise:
            q, k = self.normalise(name="q_norm")(q), self.normalise(name="k_norm")(k)
        if self.rotate:
            q, k = self.rotate(q, positions), self.rotate(k, positions)
        if cache is not None:
            new = {"k": k.swapaxes(1, 2), "v": v.swapaxes(1, 2)}
            cache = {n: jax.lax.dynamic_update_slice_in_dim(cache[n], new[n], index, axis=2) for n in new}
            k, v = cache["k"].swapaxes(1, 2), cache["v"].swapaxes(1, 2)
        causal = self.causal and mask is None
        if self.is_mutable_collection("intermediates"):
            keys = jnp.repeat(k, group, axis=2)
            self.sow("intermediates", "weights", attention_weights(q, keys, mask, causal=causal))
        drop = nn.Dropout(self.dropout, deterministic=False) if train and self.dropout else None
        y = constrain(attend(q, k, v, mask, causal=causal, drop=drop), ROWS, None, "model")
        return dense(d, kernel_init=self.out_init, name="out")(y.reshape(b, t, d)), cache


class MLP(nn.Module):
    """Two layers with an activation between them."""

    width: int
    activation: Callable = gelu
    use_bias: bool = True
    kernel_init: Any = initializers.normal(0.02)
    out_init: Any = initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype)
        h = self.activation(dense(self.width, kernel_init=self.kernel_init, name="up")(x))
        h = constrain(h, ROWS, None, "model")
        return dense(x.shape[-1], kernel_init=self.out_init, name="down")(h)


class SwiGLU(nn.Module):
    """A gated MLP (Shazeer 2020): down(silu(gate x) * up x)."""

    width: int
    use_bias: bool = False
    kernel_init: Any = initializers.normal(0.02)
    out_init: Any = initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype)
        gate, up = (dense(self.width, kernel_init=self.kernel_init, name=name)(x) for name in ("gate", "up"))
        h = constrain(nn.silu(gate) * up, ROWS, None, "model")
        return dense(x.shape[-1], kernel_init=self.out_init, name="down")(h)


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
        h, cache = self.attention(name="attention")(h, positions, mask, cache, index, train)
        x = constrain(x + drop()(h), ROWS)
        h = self.mlp(name="mlp")(self.norm(name="mlp_norm")(x))
        return constrain(x + drop()(h), ROWS), cache


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
        """`cache`: one for each layer, stacked if `scan`, or None. `args`: passed to every block, `train` last."""

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


def recorded_weights(intermediates: Any, name: str) -> Float[Array, "B L N T S"]:
    """The `attention_weights` of the modules called `name`, by layer, from the collection "intermediates"."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(intermediates):
        names = [str(getattr(key, "key", "")) for key in path]
        if "weights" in names and name in names:
            layer = [int(number) for part in names for number in re.findall(r"_(\d+)$", part)]
            found.append((layer, leaf[:, None] if leaf.ndim == 4 else leaf.swapaxes(0, 1)))
    return jnp.concatenate([leaf for _, leaf in sorted(found, key=lambda pair: pair[0])], axis=1)


def empty_cache(layers: int, scan: bool, shape: tuple[int, int, int, int], dtype: Any) -> Any:
    """Zeros [B, K, S, H] for the keys and values of each layer, as `Stack` takes them."""
    if scan:
        b, *rest = shape
        return {name: jnp.zeros((b, layers, *rest), dtype) for name in ("k", "v")}
    return tuple({name: jnp.zeros(shape, dtype) for name in ("k", "v")} for _ in range(layers))
