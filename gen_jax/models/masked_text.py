"""Masked diffusion on text: tokens of a window are hidden at random, and set in any order when sampling.

As `models.masked_diffusion`, with a Transformer that sees both sides of a token.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key
from pydantic import model_validator

from gen_jax.core import masking
from gen_jax.core.generate import rows
from gen_jax.core.gradients import Batch, Optimizer, require_optimizers
from gen_jax.core.info import Info
from gen_jax.core.masking import CLOSED, MASK, Tokens
from gen_jax.core.sampling import Encode, Prompted
from gen_jax.core.state import PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.models.base import ModelConfig
from gen_jax.models.masked_diffusion import Masked, Unmasking
from gen_jax.nets.dit import DiT
from gen_jax.settings import Count, Few, Fraction, Positive, Switch


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
    width: Positive = 384
    """Width of the residual stream."""
    dropout: Fraction = 0.0
    """Dropout rate of the residual branches."""
    scan_layers: Switch = False
    """Scans one compiled block over the layers."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes instead of keeping."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""
    rate: masking.RateName = "linear"
    """The share of hidden tokens over time, in training and sampling. The bound is the same for all."""
    start: Count = 0
    """The token that an empty prompt of `sample` stands for."""

    @model_validator(mode="after")
    def _fit_together(self) -> "Config":
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of heads = {self.heads}")
        if self.start >= self.vocab:
            raise ValueError(f"start: expected a token below vocab = {self.vocab}, got {self.start}")
        return self

    @property
    def fused(self) -> dict[str, int]:
        """As in `models.transformer`."""
        return {".*/qkv/kernel": 3 * self.heads, ".*/modulation/kernel": 6, "last_modulation/kernel": 2}

    def check_data(self, info: Info) -> None:
        info.require_kind("tokens")
        info.require_vocabulary("vocab", self.vocab)
        if info.records:
            raise ConfigError("config.data.documents: expected joined or packed, a masked model would see the lengths")
        if self.context < (length := info.shape[-1] - 1):
            raise ConfigError(f"config.model.context: expected at least {length}, as in the data, got {self.context}")


class Sampling(Unmasking, Prompted):
    """The section `config.sampling`. `length` is at most the context of the data less the prompt."""

    def completed(self, info: Info, encode: Encode | None) -> dict[str, Any]:
        found = super().completed(info, encode)
        longest = info.shape[0] - max([1, *map(len, found["prompts"])])
        if longest < 1:
            raise ValueError(f"prompts: expected at most {info.shape[0] - 1} tokens, the context of the data")
        length = longest if self.length is None else self.length
        if length > longest:
            raise ValueError(f"length: expected at most {longest}, the context of the data less the prompt")
        return found | {"length": length}


@dataclasses.dataclass(frozen=True)
class MaskedText(Masked):
    """The bound is on -log p of all tokens of a window but the first, which is seen: of the targets of a GPT."""

    start: int = 0

    def read(self, batch: Batch, rng: Key[Array, ""] | None) -> tuple[Tokens, Bool[Array, "B T"]]:
        tokens = batch["tokens"]
        targets = jnp.ones(tokens[:, 1:].shape, bool) if "mask" not in batch else batch["mask"] > 0
        tokens = tokens.at[:, 1:].set(jnp.where(targets, tokens[:, 1:], CLOSED))  # past the end of a text
        more = self.image[0] - tokens.shape[1]
        return jnp.pad(tokens, ((0, 0), (0, more)), constant_values=CLOSED), jnp.pad(targets, ((0, 0), (1, more)))

    def sample_start(self, n: int, options: Sampling) -> Tokens:
        assert options.length is not None, "options that `prepared` has not completed"
        prompts, lengths = rows(options.prompts, n, self.start)
        tokens, place = np.full((n, self.image[0]), CLOSED, np.int32), np.arange(self.image[0])
        tokens[:, : prompts.shape[1]] = prompts
        tokens = np.where(place < lengths[:, None], tokens, CLOSED)
        return jnp.asarray(np.where((tokens == CLOSED) & (place < lengths[:, None] + options.length), MASK, tokens))

    def sample_finish(
        self, state: State, carry: PyTree, options: Sampling
    ) -> tuple[Int[Array, "n T"], Int[Array, " n"]]:
        """The new tokens after `options.prompts`, and how many there are in each row."""
        assert options.length is not None
        tokens = carry["tokens"]
        _, lengths = rows(options.prompts, len(tokens), self.start)
        found = jnp.take_along_axis(tokens, lengths[:, None] + np.arange(options.length), axis=1)
        return found, jnp.full(len(tokens), options.length, jnp.int32)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> MaskedText:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    names = ("layers", "heads", "width", "dropout", "scan_layers", "remat", "dtype")
    network = DiT(patch=1, **{name: getattr(cfg, name) for name in names})
    grid = {"image": (cfg.context + 1, 1, 1), "num_classes": 0, "vocab": 0, "label_dropout": 0.0}
    return MaskedText(network, optimizers["net"], **grid, rate=cfg.rate, levels=cfg.vocab, start=cfg.start)
