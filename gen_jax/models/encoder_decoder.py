"""A pre-norm Transformer from text to text (Vaswani et al. 2017; Xiong et al. 2020).

A row may hold several pairs, each with a segment number. Attention and positions stay within a pair, so packing does
not change the model.
"""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import initializers
from jaxtyping import Array, Float, Int
from pydantic import model_validator

from gen_jax.core import beam, losses
from gen_jax.core.generate import rows
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.info import Info
from gen_jax.core.sampling import Continuation, Text
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.nets import transformer as nets
from gen_jax.nets.cross import CrossAttention, DecoderBlock
from gen_jax.nets.encoder_decoder import Network
from gen_jax.settings import Count, Few, Fraction, Positive

# what `config.sharding` takes: heads, the MLP and the vocabulary over the axis "model"; the rest over "data"
TENSOR_PARALLEL = (
    (".*/(qkv|q|kv|up)/kernel", (None, "model")),
    (".*/(qkv|q|kv|up)/bias", ("model",)),
    (".*/(out|down)/kernel", ("model", None)),
    ("token/embedding", ("model", None)),
    (".*", "fsdp"),
)


class Config(ModelConfig):
    """The section `config.model`."""

    vocab: Positive = 6_001
    """Number of tokens of both languages."""
    end: Count | None = None
    """The token that begins and ends a target and ends a source, as in the data; None = the last one."""
    encoder_layers: Few = 4
    """Blocks of the encoder."""
    decoder_layers: Few = 4
    """Blocks of the decoder."""
    heads: Positive = 4
    """Heads of each attention."""
    width: Positive = 128
    """Width of the residual stream."""
    mlp_width: Count = 0
    """Hidden width of the MLPs; 0 = 4 x width."""
    dropout: Fraction = 0.1
    """Dropout rate of the embeddings, the attention weights and the residual branches."""
    smoothing: Fraction = 0.1
    """Share of the probability that the loss spreads over the whole vocabulary."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.width % (2 * self.heads):
            raise ValueError(f"width: expected a multiple of 2 x heads = {2 * self.heads}")
        if self.end is not None and self.end >= self.vocab:
            raise ValueError(f"end: expected a token below vocab = {self.vocab}")
        return self

    @property
    def fused(self) -> dict[str, int]:
        """As in `models.transformer`."""
        return {".*/qkv/kernel": 3 * self.heads, ".*/kv/kernel": 2 * self.heads, ".*/q/kernel": self.heads}

    def check_data(self, info: Info) -> None:
        info.require_kind("pairs")
        info.require_vocabulary("vocab", self.vocab)
        info.require_equal("end", self.end_token, info.end)

    @property
    def end_token(self) -> int:
        """`end`, or the last token."""
        return self.vocab - 1 if self.end is None else self.end


class Sampling(Continuation):
    """The section `config.sampling`; `prompts` are the texts to translate."""


def smoothed(
    logits: Float[Array, "*rows V"], targets: Int[Array, "*rows"], smoothing: float
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    """Cross-entropy in nats with and without label smoothing (Szegedy et al. 2016, section 7).

    The first is (1 - smoothing) * nll + smoothing * the mean of -log p over the vocabulary.
    """
    nll = losses.cross_entropy(logits, targets)
    uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
    return (1 - smoothing) * nll + smoothing * uniform, nll


@dataclasses.dataclass(frozen=True)
class EncoderDecoder(LossModel):
    """Predicts a target token by token from a source."""

    end: int = 0
    smoothing: float = 0.0
    capacity: None = None  # sinusoids have no end

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        one = jnp.ones((1, 2), jnp.int32)
        return self.network.init(rng, one, one, one, one)

    def _logits(self, variables: PyTree, batch: Batch, **kwargs: Any) -> Any:
        inputs = (batch["source"], batch["source_segment"], batch["tokens"][:, :-1], batch["segment"])
        return self.network.apply(variables, *inputs, **kwargs)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss` with smoothing and `nll` without, nats a target token. In evaluation `accuracy` as well."""
        rngs = {"dropout": rng} if train else {}
        logits, targets = self._logits(variables, batch, train=train, rngs=rngs), batch["tokens"][:, 1:]
        loss, nll = smoothed(logits, targets, self.smoothing)
        values = {"loss": loss, "nll": nll}
        if not train:
            values["accuracy"] = (logits.argmax(axis=-1) == targets).astype(jnp.float32)
        mask = batch["mask"]
        return Terms({name: Mean((value * mask).sum(axis=1), mask.sum(axis=1)) for name, value in values.items()})

    def logits(self, state: State, batch: Batch) -> Float[Array, "B T V"]:
        return self._logits(state.nets["net"].averaged, batch)

    def attention(self, state: State, batch: Batch) -> Float[Array, "B L N T S"]:
        """The decoder's attention to the source."""
        _, recorded = self._logits(state.nets["net"].averaged, batch, mutable=["intermediates"])
        return nets.recorded_weights(recorded["intermediates"], "cross")

    def prefill(self, state: State, tokens: Int[Array, "B P"], size: int, condition: Batch) -> PyTree:
        """Reads the source; `condition` has `source` and `source_segment` [B, S], one pair a row (0 is padding)."""
        variables, network = state.nets["net"].averaged, self.network
        source, segment = condition["source"], condition["source_segment"]
        heads = (len(tokens), network.heads, size, network.width // network.heads)
        cache = {
            "index": jnp.int32(0),
            "seen": segment > 0,
            "keys": network.apply(variables, source, segment, method="read"),
            "layers": nets.empty_cache(network.decoder_layers, False, heads, network.dtype),
        }
        return self._advance(variables, cache, tokens)[1] if tokens.shape[1] else cache

    def decode_token(self, state: State, cache: PyTree, token: Int[Array, " B"]) -> tuple[Float[Array, "B V"], PyTree]:
        logits, cache = self._advance(state.nets["net"].averaged, cache, token[:, None])
        return logits[:, 0], cache

    def _advance(self, variables, cache, tokens):
        """Feeds `tokens` [B, T] after those in the cache."""
        query = cache["index"] + jnp.arange(tokens.shape[1])
        mask = jnp.arange(cache["layers"][0]["k"].shape[2]) <= query[:, None]  # [T, K]
        logits, layers = self.network.apply(
            variables,
            tokens,
            cache["keys"],
            query[None],
            mask[None, None],
            cache["seen"][:, None, None],
            cache["layers"],
            cache["index"],
            method="write",
        )
        return logits, cache | {"layers": layers, "index": cache["index"] + tokens.shape[1]}

    def translate(
        self, state: State, rng: jax.Array, condition: Batch, options: Sampling, distinct: int | None = None
    ) -> tuple[Int[Array, "B T"], Int[Array, " B"]]:
        """Targets of the sources in `condition`, and their lengths: by beam search (`beam.sample`) or by draws."""
        n = len(condition["source"])
        text = Text(**{**dict(options), "prompts": (), "end": self.end})
        starts = np.full((n, 1), self.end, np.int32), np.ones(n, np.int32)
        return beam.sample(self, state, rng, *starts, text, condition, distinct)

    def sample(
        self, state: State, rng: jax.Array, n: int, options: Sampling
    ) -> tuple[Int[Array, "n T"], Int[Array, " n"]]:
        """Translations of `options.prompts`, the sources, in turn; without any, of the empty source."""
        source, lengths = rows([(*prompt, self.end) for prompt in options.prompts], n, self.end)
        segment = (np.arange(source.shape[1]) < lengths[:, None]).astype(np.int32)
        condition = {"source": jnp.asarray(source), "source_segment": jnp.asarray(segment)}
        return self.translate(state, rng, condition, options, options.distinct)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> EncoderDecoder:
    """Xavier's rule initializes linear layers; those that end a residual branch are scaled by 1 / sqrt(branches)."""
    dtype = jnp.dtype(cfg.dtype)

    def init(parts: int) -> dict[str, Any]:
        out = initializers.variance_scaling(1 / parts, "fan_avg", "normal")
        return dict(kernel_init=initializers.xavier_normal(), out_init=out, dtype=dtype)

    norm = functools.partial(nn.LayerNorm, 1e-5, dtype=dtype)
    reads, writes = init(2 * cfg.encoder_layers), init(3 * cfg.decoder_layers)
    mlp_width = cfg.mlp_width or 4 * cfg.width
    attention = functools.partial(nets.Attention, cfg.heads, cfg.heads, causal=False, dropout=cfg.dropout)
    block = functools.partial(
        nets.Block,
        functools.partial(attention, **reads),
        functools.partial(nets.MLP, mlp_width, **reads),
        norm,
        cfg.dropout,
    )
    decoder = functools.partial(
        DecoderBlock,
        functools.partial(attention, **writes),
        functools.partial(CrossAttention, cfg.heads, cfg.width, dropout=cfg.dropout, **writes),
        functools.partial(nets.MLP, mlp_width, **writes),
        norm,
        cfg.dropout,
    )
    network = Network(
        cfg.vocab,
        cfg.width,
        cfg.heads,
        functools.partial(nets.Stack, block, cfg.encoder_layers),
        decoder,
        cfg.decoder_layers,
        norm,
        cfg.dropout,
        dtype,
    )
    return EncoderDecoder(network, optimizers["net"], cfg.end_token, cfg.smoothing)
