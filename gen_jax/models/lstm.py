"""A recurrent language model (Graves 2013). Its carry continues from window to window.

Training on streams is truncated back-propagation through time: the carry passes from window to window, the gradient
does not.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from pydantic import model_validator

from gen_jax.core import beam, losses, ops
from gen_jax.core.generate import rows
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.info import Info
from gen_jax.core.sampling import Text
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.nets.recurrent import GRU, LSTM
from gen_jax.settings import Count, Decay, Few, Positive, Switch


class Config(ModelConfig):
    """The section `config.model`."""

    vocab: Positive = 256
    """Number of tokens; 256 for bytes."""
    embed: Positive = 64
    """Width of the token embedding."""
    cell: Literal["lstm", "gru"] = "lstm"
    """Type of the recurrent layers."""
    width: Positive = 512
    """Width of the recurrent layers."""
    layers: Few = 1
    """Number of recurrent layers."""
    dropout: Decay = 0.0
    """Dropout rate of every layer's outputs to the next layer and to the logits."""
    input_dropout: Decay = 0.0
    """Dropout rate of the token embedding."""
    dropout_kind: Literal["ordinary", "variational"] = "ordinary"
    """`ordinary` draws a mask for each token, `variational` one for each window.

    `ordinary` leaves the recurrent connections alone (Zaremba et al. 2014). `variational` also masks each layer's
    state, with rate `dropout` (Gal & Ghahramani 2016).
    """
    tied: Switch = False
    """Ties the output layer to the token embedding (Press & Wolf 2017). Needs embed = width."""
    start: Count = 0
    """The token that an empty prompt of `sample` stands for."""

    @model_validator(mode="after")
    def _fit_together(self) -> "Config":
        if self.tied and self.embed != self.width:
            raise ValueError(f"embed: expected {self.width}, the width, where the vectors are tied, got {self.embed}")
        if self.start >= self.vocab:
            raise ValueError(f"start: expected a token below {self.vocab}, got {self.start}")
        return self

    @property
    def fused(self) -> dict[str, int]:
        """Kernels that hold a matrix for each gate side by side."""
        return {r"layers_\d+/(input/kernel|recurrent)": {"lstm": 4, "gru": 3}[self.cell]}

    def check_data(self, info: Info) -> None:
        info.require_vocabulary("vocab", self.vocab)
        if info.records and self.start != info.end:
            raise ConfigError(
                f"config.model.start: expected {info.end}, the token before each record, got {self.start}"
            )


class Sampling(Text):
    """The section `config.sampling`."""


class Network(nn.Module):
    """Token embedding, recurrent layers, logits of the next token.

    layers: `nets.recurrent.LSTM` or `GRU`. input_drop, drop: dropout of the embedding and of each layer's outputs.
    """

    vocab: int
    embed: int
    layers: tuple[nn.Module, ...]
    input_drop: nn.Module
    drop: nn.Module
    tied: bool = False

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], carry: PyTree, *, train: bool = False
    ) -> tuple[Float[Array, "B T V"], PyTree]:
        """`carry` is a tuple of [B, H] for each layer; returns logits and the carry after the last token."""
        embed = nn.Embed(self.vocab, self.embed)
        x = self.input_drop(embed(tokens), deterministic=not train)
        carries = []
        for layer, before in zip(self.layers, carry, strict=True):
            after, x = layer(x, before, train=train)
            x = self.drop(x, deterministic=not train)
            carries.append(after)
        if self.tied:
            logits = embed.attend(x) + self.param("bias", nn.initializers.zeros, (self.vocab,))
        else:
            logits = nn.Dense(self.vocab, name="logits")(x)
        return logits, tuple(carries)


def zero_rows(carry: PyTree, reset: Bool[Array, " B"]) -> PyTree:
    """The carry [B, ...] with the rows to be reset set to 0."""
    return jax.tree.map(lambda x: jnp.where(reset[:, None], 0, x), carry)


@dataclasses.dataclass(frozen=True)
class LSTMModel(LossModel):
    """Next-token prediction.

    Training batches with `reset` [B] (streams) keep the carry. Those without it start each window at 0. A model trained
    either way can be evaluated cold (`eval_step`) and carried (`eval_carried`).
    """

    start: int = 0

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        tokens = batch["tokens"][:1, :1]
        return self.network.init(rng, tokens, self._zeros(1))

    def init_carry(self, batch: Batch) -> PyTree:
        """Zeros [B, H] for each layer. None for batches without `reset`, which are not streams."""
        return self._zeros(len(batch["tokens"])) if "reset" in batch else None

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """The negative log-likelihood of the next tokens, nats a token, and the accuracy of the likeliest token.

        Rows of `batch["carry"]` continue unless `batch["reset"]` is set. Without a carry all rows start at 0.
        """
        inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        carry = batch.get("carry")
        before = self._zeros(len(inputs)) if carry is None else carry
        if "reset" in batch:
            before = zero_rows(before, batch["reset"])
        rngs = {"dropout": rng} if train else {}
        logits, after = self.network.apply(variables, inputs, before, train=train, rngs=rngs)
        means = losses.next_token(logits, targets, batch.get("mask"))
        return Terms(means, carry=None if carry is None else after)

    def eval_carried(self, state: State, batch: Batch, carry: PyTree, rng: jax.Array) -> tuple[dict[str, Mean], PyTree]:
        """`eval_step` that starts from `carry`. Also returns the carry after this batch.

        `eval_step` itself is the cold evaluation: every window starts from zeros. Over a split, the carried evaluation
        has as many cold starts as its batch has rows (`data.feeds.EvalTokens`), so it depends on `eval_batch_size`.
        """
        keys = ops.row_keys(rng, batch["index"])
        variables = state.nets["net"].averaged
        terms = self.terms(variables, batch | {"carry": carry}, keys, step=state.step, train=False)
        return {name: mean.where(batch["valid"]) for name, mean in terms.means.items()}, terms.carry

    @property
    def capacity(self) -> None:
        return None

    def logits(self, state: State, batch: Batch) -> Float[Array, "B T V"]:
        inputs = batch["tokens"][:, :-1]
        return self.network.apply(state.nets["net"].averaged, inputs, self._zeros(len(inputs)))[0]

    def prefill(self, state: State, tokens: Int[Array, "B P"], size: int, condition: Batch) -> PyTree:
        """The carry after `tokens`. Its size is constant."""
        if not tokens.shape[1]:
            return self._zeros(len(tokens))
        return self.network.apply(state.nets["net"].averaged, tokens, self._zeros(len(tokens)))[1]

    def decode_token(self, state: State, cache: PyTree, token: Int[Array, " B"]) -> tuple[Float[Array, "B V"], PyTree]:
        logits, carry = self.network.apply(state.nets["net"].averaged, token[:, None], cache)
        return logits[:, 0], carry

    def prompts(self, options: Sampling, n: int) -> tuple[Int[np.ndarray, "n P"], Int[np.ndarray, " n"]]:
        """The prompts of n rows and their lengths. If texts end with a token, that token precedes each prompt."""
        return rows(options.prompts, n, self.start, leads=self.start == options.end)

    def sample(
        self, state: State, rng: jax.Array, n: int, options: Sampling
    ) -> tuple[Int[Array, "n T"], Int[Array, " n"]]:
        """The new tokens after `options.prompts`, and how many there are in each row."""
        return beam.sample(self, state, rng, *self.prompts(options, n), options, distinct=options.distinct)

    def _zeros(self, rows: int) -> PyTree:
        return tuple(layer.zeros(rows) for layer in self.network.layers)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> LSTMModel:
    variational = cfg.dropout_kind == "variational"
    layer = {"lstm": LSTM, "gru": GRU}[cfg.cell]
    along = cfg.dropout if variational else 0.0
    shared = (1,) if variational else ()  # axes along which a mask is the same: time
    network = Network(
        vocab=cfg.vocab,
        embed=cfg.embed,
        layers=tuple(layer(cfg.width, along) for _ in range(cfg.layers)),
        input_drop=nn.Dropout(cfg.input_dropout, shared),
        drop=nn.Dropout(cfg.dropout, shared),
        tied=cfg.tied,
    )
    return LSTMModel(network, optimizers["net"], start=cfg.start)
