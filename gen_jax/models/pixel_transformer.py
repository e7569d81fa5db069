"""Images as sequences of discrete values, drawn in raster order by a Transformer (Image GPT, Chen et al. 2020)."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
from pydantic import model_validator

from gen_jax.core import grey, losses, ops
from gen_jax.core.captions import Captions
from gen_jax.core.generate import generate
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.info import Info
from gen_jax.core.sampling import Classes, Text, Tokens
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.nets.decoder import decoder
from gen_jax.settings import Count, Few, Fraction, Positive, Settings


class GridConfig(ModelConfig):
    """Of a Transformer over any grid.

    num_classes: 0, or the number of labels that it is conditioned on.
    vocab, caption_length: 0, or the tokens of captions that it is conditioned on, and how many a caption has.
    layers, heads, width, dropout: of the Transformer, as in `models.transformer`.
    """

    num_classes: Count = 0
    """0, or the number of classes that the model is conditioned on."""
    vocab: Count = 0
    """0, or the number of tokens of the captions that the model is conditioned on."""
    caption_length: Count = 0
    """Tokens of a caption."""
    layers: Few = 4
    """Number of blocks."""
    heads: Positive = 4
    """Heads of each attention."""
    width: Positive = 128
    """Width of the residual stream."""
    dropout: Fraction = 0.0
    """Dropout rate of the embeddings, the attention weights and the residual branches."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "GridConfig":
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of heads = {self.heads}")
        if bool(self.vocab) != bool(self.caption_length):
            raise ValueError("caption_length: expected 0 without vocab, more than 0 beside it")
        return self

    def check_condition(self, info: Info) -> None:
        """Raises ConfigError if the data's classes or captions are others."""
        info.require_classes("num_classes", self.num_classes)
        info.require_captions("vocab", self.vocab)
        if self.vocab:
            info.require_equal("caption_length", self.caption_length, len(info.captions[0]))

    @property
    def fused(self) -> dict[str, int]:
        """As in `models.transformer`."""
        return {".*/qkv/kernel": 3 * self.heads}


class Config(GridConfig):
    """The section `config.model`."""

    image: tuple[Positive, Positive, Positive]
    """(height, width, channels) of the data."""
    levels: grey.Levels = 256
    """Grey levels of a pixel; 2 of binarised images. Fewer than 256 are drawn at random around the pixel, in evaluation
    those of an example are fixed."""
    position: Literal["learned", "rotary"] = "learned"
    """Learned or rotary positions."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """Activation of the MLPs."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""

    @model_validator(mode="after")
    def _turns_pairs(self) -> "Config":
        if self.position == "rotary" and self.width // self.heads % 2:
            raise ValueError("width: expected an even number a head for rotary positions")
        return self

    def check_data(self, info: Info) -> None:
        info.require_images("image", self.image)
        self.check_condition(info)


class Sampling(Tokens, Classes, Captions):
    """The section `config.sampling`."""

    def check(self, model: Settings) -> None:
        super().check(model)
        self.require_words()


@dataclasses.dataclass(frozen=True)
class PixelTransformer(LossModel):
    """A sequence is the caption, if there is one, the token `levels` + label, and the values in raster order, channels
    last.

    The network knows `levels` + max(num_classes, 1) tokens, then those of captions; only values are predicted. A batch
    holds `values` int32 [B, H, W, C], or an `image` whose grey levels they are.

    Args:
      image: height, width and channels of the grid. levels: its values are below.
    """

    image: tuple[int, int, int]
    levels: int
    num_classes: int
    vocab: int = 0
    caption_length: int = 0
    discrete_likelihood: bool = True
    normalised_likelihood: bool = True

    @property
    def capacity(self) -> int:
        return self.caption_length + math.prod(self.image)

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.network.init(rng, jnp.zeros((1, 1), jnp.int32))

    def tokens(self, batch: Batch) -> Int[Array, "B L"]:
        """`values` [B, H, W, C], or those of `image` in evaluation, behind a caption of S tokens and their first
        token: L = S + 1 + H W C."""
        if "values" in batch:
            values = batch["values"]
        else:
            values = grey.quantise(batch["image"], self.levels, grey.evaluation_keys(batch["index"]))
        values = values.reshape(len(values), -1)
        label = batch["label"] if self.num_classes else jnp.zeros(len(values), jnp.int32)
        return jnp.concatenate([self._before(label, batch.get("caption")), values], axis=1)

    def _before(self, label: Int[Array, " B"], caption: Int[Array, "B S"] | None) -> Int[Array, "B P"]:
        """What precedes the values; `caption` is read where the model knows captions."""
        first = self.levels + label[:, None]
        if not self.vocab:
            return first
        assert caption is not None
        return jnp.concatenate([self.levels + max(self.num_classes, 1) + caption, first], axis=1)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, nats a value; `accuracy` of the likeliest value; and `log_prob`, nats an image."""
        drop_rng, value_rng = ops.split(rng, 2)
        if train and "values" not in batch:
            batch = batch | {"values": grey.quantise(batch["image"], self.levels, value_rng)}
        tokens = self.tokens(batch)
        rngs = {"dropout": drop_rng} if train else {}
        logits, _ = self.network.apply(variables, tokens[:, :-1], train=train, rngs=rngs)
        start = self.caption_length
        means = losses.next_token(logits[:, start:, : self.levels], tokens[:, start + 1 :])
        return Terms(means | {"log_prob": Mean.of(-means["loss"].total)})

    def log_prob(self, state: State, batch: Batch, rng: jax.Array, num_samples: int) -> Float[Array, " B"]:
        """log p(image | label, caption) in nats, exact, so `num_samples` is not used."""
        means = self.terms(state.nets["net"].averaged, batch, rng, step=state.step, train=False).means
        return means["log_prob"].total

    def logits(self, state: State, batch: Batch) -> Float[Array, "B T V"]:
        return self.network.apply(state.nets["net"].averaged, self.tokens(batch)[:, :-1])[0][..., : self.levels]

    def prefill(self, state: State, tokens: Int[Array, "B P"], size: int, condition: Batch) -> PyTree:
        return self.network.apply(state.nets["net"].averaged, tokens, size, method="fill")

    def decode_token(self, state: State, cache: PyTree, token: Int[Array, " B"]) -> tuple[Float[Array, "B V"], PyTree]:
        logits, cache = self.network.apply(state.nets["net"].averaged, token[:, None], cache)
        return logits[:, 0, : self.levels], cache

    def sample(self, state: State, rng: jax.Array, n: int, options: Sampling) -> UInt8[Array, "n H W C"]:
        return grey.to_pixels(self.sample_values(state, rng, n, options), self.levels)

    def sample_values(self, state: State, rng: jax.Array, n: int, options: Sampling) -> Int[Array, "n H W C"]:
        """Values of n images. Classes and captions come in turn, or all classes are `options.label`."""
        label = options.labels(n, self.num_classes)
        label = jnp.zeros(n, jnp.int32) if label is None else label
        before = self._before(label, options.caption_rows(n) if self.vocab else None)
        text = Text(**options.drawing(), length=math.prod(self.image))
        values, _ = generate(self, state, rng, before, [before.shape[1]] * n, text)
        return values.reshape(n, *self.image)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> PixelTransformer:
    return build(optimizers["net"], **cfg.model_dump())


def build(
    optimizer: Optimizer,
    image: tuple[int, int, int],
    levels: int,
    num_classes: int,
    vocab: int = 0,
    caption_length: int = 0,
    **parts: Any,
) -> PixelTransformer:
    """Over any grid [H, W, C] of integers below `levels`; `parts` go to `nets.decoder.decoder`."""
    network = decoder(levels + max(num_classes, 1) + vocab, caption_length + math.prod(image), **parts)
    return PixelTransformer(network, optimizer, image, levels, num_classes, vocab, caption_length)
