"""A decoder-only Transformer over tokens: GPT-2 (Radford et al. 2019) by default, its parts exchangeable."""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Bool, Float, Int
from pydantic import model_validator

from gen_jax import losses
from gen_jax.models.base import Batch, LossModel, Optimiser, Terms
from gen_jax.nets import transformer as nets
from gen_jax.nets.dense import Dense, dot
from gen_jax.sampling import SampleOptions, generate, rows
from gen_jax.settings import Count, Fraction, Positive, Settings
from gen_jax.state import PyTree, State

# what `config.sharding` takes: heads, the MLP and the vocabulary over the axis "model"; the rest over "data"
TENSOR_PARALLEL = (
    (".*/(qkv|up|gate)/kernel", (None, "model")),
    (".*/(qkv|up|gate)/bias", ("model",)),
    (".*/(out|down)/kernel", ("model", None)),
    ("token/embedding", ("model", None)),
    ("logits/kernel", (None, "model")),
    (".*", "fsdp"),
)
FSDP = ((".*", "fsdp"),)


class Config(Settings):
    """The section `config.model`.

    vocab: number of tokens. context: the most positions that it has seen.
    layers, heads, width: kv_heads = 0 takes as many as heads; fewer are shared. mlp_width = 0: 4 x width.
    norm, position, mlp, qk_norm: LayerNorm or RMSNorm; learned or rotary positions; an exact GELU, its approximation by
      tanh (GPT-2's published weights) or SwiGLU; a norm of queries and keys. bias: in linear layers and LayerNorms.
    tied: the output layer is the token table. dropout: of the embeddings and of what a layer adds.
    scan_layers, remat: compile one block for all layers; what blocks keep for the gradient.
    dtype: of the computation; parameters are float32.
    start: the token that an empty prompt of `sample` stands for.
    end: id of the token between packed documents, which attention and positions do not cross; None = text without.
    """

    vocab: Positive = 256
    context: Positive = 256
    layers: Positive = 6
    heads: Positive = 6
    kv_heads: Count = 0
    width: Positive = 384
    mlp_width: Count = 0
    norm: Literal["layer", "rms"] = "layer"
    position: Literal["learned", "rotary"] = "learned"
    mlp: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu"
    qk_norm: bool = False
    bias: bool = True
    tied: bool = True
    dropout: Fraction = 0.0
    scan_layers: bool = False
    remat: Literal["none", "dots", "full"] = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"
    start: Count = 0
    end: Count | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> "Config":
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of heads = {self.heads}")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"kv_heads: expected a divisor of heads = {self.heads}")
        if self.position == "rotary" and self.width // self.heads % 2:
            raise ValueError("width: expected an even number a head for rotary positions")
        return self


class Network(nn.Module):
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
        self, tokens: Int[Array, "B T"], cache: PyTree = None, *, train: bool = False
    ) -> tuple[Float[Array, "B T V"], PyTree]:
        """float32 logits of the token after each, and the cache with `tokens` behind what it had."""
        index = 0 if cache is None else cache["index"]
        starts = None
        if self.end is not None:
            before = 0 if cache is None else cache["start"]
            starts = self._starts(tokens, index, before)
        mask = self._mask(tokens.shape[1], index, starts, cache)
        places = index + jnp.arange(tokens.shape[1])[None]  # [1, T]
        places = places if starts is None else places - starts
        x = self.token(tokens)
        if self.learned:
            x += self.position(places)
        x = self.drop(x.astype(self.dtype), deterministic=not train)
        x, kept = self.blocks(x, None if cache is None else cache["layers"], places, mask, index, train)
        x = self.last_norm(x)
        table = self.token.embedding.astype(self.dtype).T
        logits = dot(x, table) if self.tied else self.logits(x)
        if cache is not None:
            cache = {"index": index + tokens.shape[1], "layers": kept}
            cache |= {} if starts is None else {"start": starts[:, -1]}
        return logits.astype(jnp.float32), cache

    def _starts(self, tokens, index, before) -> Int[Array, "B T"]:
        """Where the document of each token began; `before` [B] is where that of the token before them did."""
        here = jnp.where(tokens == self.end, index + jnp.arange(tokens.shape[1]), 0)
        return jnp.maximum(jax.lax.cummax(here, axis=1), jnp.reshape(before, (-1, 1)))

    def _mask(self, length, index, starts, cache) -> Bool[Array, "B 1 T S"] | None:
        """None = everything before; with a cache, or with documents, it is written out."""
        if cache is None and starts is None:
            return None
        size = length if cache is None else jax.tree.leaves(cache["layers"])[0].shape[-2]
        key, query = jnp.arange(size), index + jnp.arange(length)[:, None]
        mask = (key <= query)[None]  # [1, T, S]
        if starts is not None:
            mask = mask & (key >= starts[..., None])
        return mask[:, None]

    def empty_cache(self, rows: int, size: int) -> PyTree:
        """Room for `size` positions."""
        shape = (rows, self.kv_shape[0], size, self.kv_shape[1])
        cache = {"index": jnp.int32(0), "layers": nets.empty_cache(self.layers, self.scan, shape, self.dtype)}
        return cache if self.end is None else cache | {"start": jnp.zeros(rows, jnp.int32)}


@dataclasses.dataclass(frozen=True)
class TransformerModel(LossModel):
    """Next-token prediction."""

    start: int = 0

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.network.init(rng, jnp.zeros((1, 1), jnp.int32))

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """The next tokens' negative log-likelihood in nats a token, and how often the likeliest is right."""
        rngs = {"dropout": rng} if train else {}
        logits, _ = self.network.apply(variables, batch["tokens"][:, :-1], train=train, rngs=rngs)
        return Terms(losses.next_token(logits, batch["tokens"][:, 1:], batch.get("mask")))

    @property
    def capacity(self) -> int:
        return self.network.context

    def logits(self, state: State, batch: Batch) -> Float[Array, "B T V"]:
        return self.network.apply(state.nets["net"].averaged, batch["tokens"][:, :-1])[0]

    def prefill(self, state: State, tokens: Int[Array, "B P"], size: int, condition: Batch) -> PyTree:
        cache = self.network.empty_cache(len(tokens), size)
        return self.network.apply(state.nets["net"].averaged, tokens, cache)[1] if tokens.shape[1] else cache

    def decode_token(self, state: State, cache: PyTree, token: Int[Array, " B"]) -> tuple[Float[Array, "B V"], PyTree]:
        logits, cache = self.network.apply(state.nets["net"].averaged, token[:, None], cache)
        return logits[:, 0], cache

    def sample(
        self, state: State, rng: jax.Array, n: int, options: SampleOptions
    ) -> tuple[Int[Array, "n T"], Int[Array, " n"]]:
        """What follows `options.prompts`, and its lengths."""
        return generate(self, state, rng, *rows(options, n, self.start), options)


def network(cfg: Config) -> Network:
    """The modules that `cfg` names, put together. Kernels that end in the residual start smaller by sqrt(2 layers)."""
    dtype = jnp.dtype(cfg.dtype)
    norms = {
        "layer": functools.partial(nn.LayerNorm, 1e-5, use_bias=cfg.bias),
        "rms": functools.partial(nn.RMSNorm, 1e-6),
    }
    norm = functools.partial(norms[cfg.norm], dtype=dtype)
    init = dict(use_bias=cfg.bias, out_init=initializers.normal(0.02 / (2 * cfg.layers) ** 0.5), dtype=dtype)
    kv_heads, head_width = cfg.kv_heads or cfg.heads, cfg.width // cfg.heads
    attention = functools.partial(
        nets.Attention,
        cfg.heads,
        kv_heads,
        normalise=functools.partial(nn.RMSNorm, 1e-6, dtype=dtype) if cfg.qk_norm else None,
        rotate=nets.rotary if cfg.position == "rotary" else None,
        **init,
    )
    mlps = {
        "gelu": nets.MLP,
        "gelu_tanh": functools.partial(nets.MLP, activation=nn.gelu),
        "swiglu": nets.SwiGLU,
    }
    mlp = functools.partial(mlps[cfg.mlp], width=cfg.mlp_width or 4 * cfg.width, **init)
    block = functools.partial(nets.Block, attention, mlp, norm, cfg.dropout)
    return Network(
        cfg.vocab,
        cfg.context,
        cfg.width,
        functools.partial(nets.Stack, block, cfg.layers, cfg.scan_layers, cfg.remat),
        norm,
        kv_shape=(kv_heads, head_width),
        layers=cfg.layers,
        scan=cfg.scan_layers,
        learned=cfg.position == "learned",
        tied=cfg.tied,
        dropout=cfg.dropout,
        end=cfg.end,
        dtype=dtype,
    )


def from_config(cfg: Config, txs: dict[str, Optimiser]) -> TransformerModel:
    return TransformerModel(network(cfg), txs["net"], start=cfg.start if cfg.end is None else cfg.end)
