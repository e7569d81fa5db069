"""A decoder-only Transformer over tokens, built from the parts of `nets.transformer`."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Bool, Float, Int

from gen_jax.core.ops import ROWS, constrain
from gen_jax.nets import transformer as nets
from gen_jax.nets.dense import Dense, dot

NORMS = {"layer": functools.partial(nn.LayerNorm, 1e-5), "rms": functools.partial(nn.RMSNorm, 1e-6)}
MLPS = {"gelu": nets.MLP, "gelu_tanh": functools.partial(nets.MLP, activation=nn.gelu), "swiglu": nets.SwiGLU}


class Decoder(nn.Module):
    """Token vectors, blocks, a last norm, logits.

    Attributes:
      stack: makes the blocks. norm: makes a norm. positions: table of learned positions; False where blocks know them.
      kv_shape: keys' heads and width of each, for the cache.
    """

    vocab: int
    context: int
    width: int
    stack: nets.Factory
    norm: nets.Factory
    kv_shape: tuple[int, int]
    layers: int
    scan: bool
    learned: bool = True
    tied: bool = True
    dropout: float = 0.0
    end: int | None = None
    dtype: Any = jnp.float32

    def setup(self):
        table = functools.partial(nn.Embed, features=self.width, embedding_init=initializers.normal(0.02))
        self.token = table(self.vocab, name="token")
        if self.learned:
            self.position = table(self.context, name="position")
        self.blocks, self.last_norm = self.stack(name="blocks"), self.norm(name="norm")
        self.drop = nn.Dropout(self.dropout)
        if not self.tied:
            self.logits = Dense(self.vocab, use_bias=False, kernel_init=initializers.normal(0.02), name="logits")

    def __call__(
        self, tokens: Int[Array, "B T"], cache: Any = None, *, train: bool = False
    ) -> tuple[Float[Array, "B T V"], Any]:
        """float32 logits of the next token at each position, and the cache with `tokens` appended."""
        x, cache = self.hidden(tokens, cache, train=train)
        return self.logits_of(x), cache

    def hidden(
        self, tokens: Int[Array, "B T"], cache: Any = None, *, train: bool = False
    ) -> tuple[Float[Array, "B T D"], Any]:
        """The input of `logits_of`, and the cache."""
        index = 0 if cache is None else cache["index"]
        starts = None
        if self.end is not None:
            before = 0 if cache is None else cache["start"]
            starts = self._starts(tokens, index, before)
        mask = self._mask(tokens.shape[1], index, starts, cache)
        places = index + jnp.arange(tokens.shape[1])[None]  # [1, T]
        places = places if starts is None else places - starts
        x = nets.look_up(self.token.embedding, tokens)
        if self.learned:
            x += self.position(places)
        x = constrain(self.drop(x.astype(self.dtype), deterministic=not train), ROWS)
        x, kept = self.blocks(x, None if cache is None else cache["layers"], places, mask, index, train)
        if cache is not None:
            cache = {"index": index + tokens.shape[1], "layers": kept}
            cache |= {} if starts is None else {"start": starts[:, -1]}
        return self.last_norm(x), cache

    def logits_of(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """float32."""
        table = self.token.embedding.astype(self.dtype).T
        logits = dot(x, table) if self.tied else self.logits(x)
        return constrain(logits.astype(jnp.float32), ROWS, None, "model")

    def _starts(self, tokens, index, before) -> Int[Array, "B T"]:
        """The start position of each token's document. `before` [B] is that of the preceding token's document."""
        here = jnp.where(tokens == self.end, index + jnp.arange(tokens.shape[1]), 0)
        return jnp.maximum(jax.lax.cummax(here, axis=1), jnp.reshape(before, (-1, 1)))

    def _mask(self, length, index, starts, cache) -> Bool[Array, "B 1 T S"] | None:
        """None = causal. With a cache, or with documents, the mask is explicit."""
        if cache is None and starts is None:
            return None
        size = length if cache is None else jax.tree.leaves(cache["layers"])[0].shape[-2]
        key, query = jnp.arange(size), index + jnp.arange(length)[:, None]
        mask = (key <= query)[None]  # [1, T, S]
        if starts is not None:
            mask = mask & (key >= starts[..., None])
        return mask[:, None]

    def fill(self, tokens: Int[Array, "B P"], size: int) -> Any:
        """A cache of `size` positions, the first P of which hold `tokens`; P may be 0."""
        cache = self.empty_cache(len(tokens), size)
        return self(tokens, cache)[1] if tokens.shape[1] else cache

    def empty_cache(self, rows: int, size: int) -> Any:
        """Room for `size` positions."""
        shape = (rows, self.kv_shape[0], size, self.kv_shape[1])
        cache = {"index": jnp.int32(0), "layers": nets.empty_cache(self.layers, self.scan, shape, self.dtype)}
        return cache if self.end is None else cache | {"start": jnp.zeros(rows, jnp.int32)}


def decoder(
    vocab: int,
    context: int,
    layers: int,
    heads: int,
    width: int,
    *,
    kv_heads: int = 0,
    mlp_width: int = 0,
    norm: str = "layer",
    position: str = "learned",
    mlp: str = "gelu",
    qk_norm: bool = False,
    bias: bool = True,
    tied: bool = True,
    dropout: float = 0.0,
    scan_layers: bool = False,
    remat: str = "none",
    dtype: str = "float32",
    end: int | None = None,
) -> Decoder:
    """A Decoder of named parts. `models.transformer.Config` documents the arguments.

    Kernels that end a residual branch are initialized smaller by sqrt(2 layers) (Radford et al. 2019, section 2.3).
    """
    kind = jnp.dtype(dtype)
    shape = dict(use_bias=bias) if norm == "layer" else {}
    make_norm = functools.partial(NORMS[norm], dtype=kind, **shape)
    linear = dict(use_bias=bias, out_init=initializers.normal(0.02 / (2 * layers) ** 0.5), dtype=kind)
    attention = functools.partial(
        nets.Attention,
        heads,
        kv_heads or heads,
        normalise=functools.partial(NORMS["rms"], dtype=kind) if qk_norm else None,
        rotate=nets.rotary if position == "rotary" else None,
        dropout=dropout,
        **linear,
    )
    make_mlp = functools.partial(MLPS[mlp], mlp_width or 4 * width, **linear)
    block = functools.partial(nets.Block, attention, make_mlp, make_norm, dropout)
    return Decoder(
        vocab,
        context,
        width,
        functools.partial(nets.Stack, block, layers, scan_layers, remat),
        make_norm,
        kv_shape=(kv_heads or heads, width // heads),
        layers=layers,
        scan=scan_layers,
        learned=position == "learned",
        tied=tied,
        dropout=dropout,
        end=end,
        dtype=kind,
    )
