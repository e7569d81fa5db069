"""A decoder-only Transformer over tokens: GPT-2 (Radford et al. 2019) by default, with exchangeable parts."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from pydantic import model_validator

from gen_jax.core import beam, losses
from gen_jax.core.generate import rows
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.info import Info
from gen_jax.core.sampling import Text
from gen_jax.core.state import PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.nets.decoder import decoder
from gen_jax.nets.transformer import recorded_weights
from gen_jax.settings import Count, Few, Fraction, Positive, Switch

# What `config.sharding` takes. For any Transformer, also over grids and from texts to texts: heads, the MLP and the
# vocabulary over "model", their other axis over "fsdp".
TENSOR_PARALLEL = (
    (".*/(qkv|q|kv|up|gate)/kernel", ("fsdp", "model")),
    (".*/(qkv|q|kv|up|gate)/bias", ("model",)),
    (".*/(out|down)/kernel", ("model", "fsdp")),
    ("token/embedding", ("model", "fsdp")),
    ("logits/kernel", ("fsdp", "model")),
    (".*", "fsdp"),
)
# For every family; enough for those whose kernels are small beside their activations: all but Transformers.
FSDP = ((".*", "fsdp"),)


class Config(ModelConfig):
    """The section `config.model`."""

    vocab: Positive = 256
    """Number of tokens."""
    context: Positive = 256
    """Length of the longest window."""
    layers: Few = 6
    """Number of blocks."""
    heads: Positive = 6
    """Attention heads."""
    kv_heads: Count = 0
    """Heads of keys and values, each shared by several query heads; 0 = as many as `heads`."""
    width: Positive = 384
    """Width of the residual stream."""
    mlp_width: Count = 0
    """Hidden width of the MLPs; 0 = 4 x width."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm or RMSNorm."""
    position: Literal["learned", "rotary"] = "learned"
    """Learned or rotary positions."""
    mlp: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu"
    """An exact GELU, its approximation by tanh (GPT-2's published weights) or SwiGLU."""
    qk_norm: Switch = False
    """Normalizes queries and keys."""
    bias: Switch = True
    """Biases in linear layers and LayerNorms."""
    tied: Switch = True
    """Ties the output layer to the token embedding."""
    dropout: Fraction = 0.0
    """Dropout rate of the embeddings, the attention weights and the residual branches, as in nanoGPT."""
    scan_layers: Switch = False
    """Scans one compiled block over the layers."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes instead of keeping."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""
    loss_parts: Positive = 1
    """Computes the loss in this many chunks, so the [B, T, V] logits are never materialized."""
    start: Count = 0
    """The token that an empty prompt of `sample` stands for."""
    end: Count | None = None
    """The token between packed documents. Attention and positions do not cross it. None = one continuous text."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "Config":
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of heads = {self.heads}")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"kv_heads: expected a divisor of heads = {self.heads}")
        if self.position == "rotary" and self.width // self.heads % 2:
            raise ValueError("width: expected an even number a head for rotary positions")
        for name in ("start", "end"):
            if (getattr(self, name) or 0) >= self.vocab:
                raise ValueError(f"{name}: expected a token below vocab = {self.vocab}, got {getattr(self, name)}")
        return self

    @property
    def fused(self) -> dict[str, int]:
        """Kernels that hold several matrices of equal width side by side: one for each head of q, k and v."""
        return {".*/qkv/kernel": self.heads + 2 * (self.kv_heads or self.heads)}

    def check_data(self, info: Info) -> None:
        info.require_vocabulary("vocab", self.vocab)
        if self.context < (length := info.shape[-1] - 1):
            raise ConfigError(f"config.model.context: expected at least {length}, as in the data, got {self.context}")
        if info.end is not None:
            info.require_equal("end", self.end, info.end)


class Sampling(Text):
    """The section `config.sampling`."""


@dataclasses.dataclass(frozen=True)
class TransformerModel(LossModel):
    """Next-token prediction."""

    start: int = 0
    loss_parts: int = 1

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.network.init(rng, jnp.zeros((1, 1), jnp.int32))

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """The negative log-likelihood of the next tokens, nats a token, and the accuracy of the likeliest token."""
        inputs, targets, network = batch["tokens"][:, :-1], batch["tokens"][:, 1:], self.network
        if targets.shape[1] % self.loss_parts:
            raise ConfigError(
                f"config.model.loss_parts: expected a divisor of {targets.shape[1]}, the tokens of a window, "
                f"got {self.loss_parts}"
            )
        rngs = {"dropout": rng} if train else {}
        x, _ = network.apply(variables, inputs, train=train, rngs=rngs, method="hidden")

        def logits_of(x: jax.Array) -> Any:
            return network.apply(variables, x, method="logits_of")

        return Terms(losses.next_token_in_parts(logits_of, x, targets, batch.get("mask"), self.loss_parts))

    @property
    def capacity(self) -> int:
        return self.network.context

    def logits(self, state: State, batch: Batch) -> Float[Array, "B T V"]:
        return self.network.apply(state.nets["net"].averaged, batch["tokens"][:, :-1])[0]

    def attention(self, state: State, batch: Batch) -> Float[Array, "B L N T T"]:
        variables, inputs = state.nets["net"].averaged, batch["tokens"][:, :-1]
        _, recorded = self.network.apply(variables, inputs, mutable=["intermediates"])
        return recorded_weights(recorded["intermediates"], "attention")

    def prefill(self, state: State, tokens: Int[Array, "B P"], size: int, condition: Batch) -> PyTree:
        return self.network.apply(state.nets["net"].averaged, tokens, size, method="fill")

    def decode_token(self, state: State, cache: PyTree, token: Int[Array, " B"]) -> tuple[Float[Array, "B V"], PyTree]:
        logits, cache = self.network.apply(state.nets["net"].averaged, token[:, None], cache)
        return logits[:, 0], cache

    def prompts(self, options: Sampling, n: int) -> tuple[Int[np.ndarray, "n P"], Int[np.ndarray, " n"]]:
        """The prompts of n rows and their lengths. If documents end with a token, that token precedes each prompt."""
        return rows(options.prompts, n, self.start, leads=self.network.end is not None)

    def sample(
        self, state: State, rng: jax.Array, n: int, options: Sampling
    ) -> tuple[Int[Array, "n T"], Int[Array, " n"]]:
        """The new tokens after `options.prompts`, and how many there are in each row."""
        return beam.sample(self, state, rng, *self.prompts(options, n), options, distinct=options.distinct)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> TransformerModel:
    start = cfg.start if cfg.end is None else cfg.end
    return TransformerModel(
        decoder(**cfg.model_dump(exclude={"start", "loss_parts"})), optimizers["net"], start, cfg.loss_parts
    )
