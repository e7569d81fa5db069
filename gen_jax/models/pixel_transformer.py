"""Images as sequences of discrete values, drawn in raster order by a Transformer (Image GPT, Chen et al. 2020)."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
from pydantic import model_validator

from gen_jax.core import grey, losses, ops
from gen_jax.core.generate import generate
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.info import Info
from gen_jax.core.sampling import Classes, Text, Tokens
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.nets.decoder import decoder
from gen_jax.settings import Count, Few, Fraction, Positive


class GridConfig(ModelConfig):
    """Of a Transformer over any grid.

    num_classes: 0, or the number of labels that it is conditioned on.
    layers, heads, width, dropout: of the Transformer, as in `models.transformer`.
    """

    num_classes: Count = 0
    """0, or the number of classes that the model is conditioned on."""
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
        return self

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
        info.require_classes("num_classes", self.num_classes)


class Sampling(Tokens, Classes):
    """The section `config.sampling`."""


@dataclasses.dataclass(frozen=True)
class PixelTransformer(LossModel):
    """A sequence starts with the token `levels` + label, then the values in raster order, channels last.

    The network knows `levels` + max(num_classes, 1) tokens; only values are predicted. A batch holds `values` int32
    [B, H, W, C], or an `image` whose grey levels they are.

    Args:
      image: height, width and channels of the grid. levels: its values are below.
    """

    image: tuple[int, int, int]
    levels: int
    num_classes: int
    discrete_likelihood: bool = True
    normalised_likelihood: bool = True

    @property
    def capacity(self) -> int:
        return math.prod(self.image)

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.network.init(rng, jnp.zeros((1, 1), jnp.int32))

    def tokens(self, batch: Batch) -> Int[Array, "B L"]:
        """`values` [B, H, W, C], or those of `image` in evaluation, behind their first token: L = H W C + 1."""
        if "values" in batch:
            values = batch["values"]
        else:
            values = grey.quantise(batch["image"], self.levels, grey.evaluation_keys(batch["index"]))
        values = values.reshape(len(values), -1)
        label = batch["label"] if self.num_classes else jnp.zeros(len(values), jnp.int32)
        return jnp.concatenate([self.levels + label[:, None], values], axis=1)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, nats a value; `accuracy` of the likeliest value; and `log_prob`, nats an image."""
        drop_rng, value_rng = ops.split(rng, 2)
        if train and "values" not in batch:
            batch = batch | {"values": grey.quantise(batch["image"], self.levels, value_rng)}
        tokens = self.tokens(batch)
        rngs = {"dropout": drop_rng} if train else {}
        logits, _ = self.network.apply(variables, tokens[:, :-1], train=train, rngs=rngs)
        means = losses.next_token(logits[..., : self.levels], tokens[:, 1:])
        return Terms(means | {"log_prob": Mean.of(-means["loss"].total)})

    def log_prob(self, state: State, batch: Batch, rng: jax.Array, num_samples: int) -> Float[Array, " B"]:
        """log p(image | label) in nats, exact, so `num_samples` is not used."""
        means = self.terms(state.nets["net"].averaged, batch, rng, step=state.step, train=False).means
        return means["log_prob"].total

    def logits(self, state: State, batch: Batch) -> Float[Array, "B N V"]:
        return self.network.apply(state.nets["net"].averaged, self.tokens(batch)[:, :-1])[0][..., : self.levels]

    def prefill(self, state: State, tokens: Int[Array, "B P"], size: int, condition: Batch) -> PyTree:
        return self.network.apply(state.nets["net"].averaged, tokens, size, method="fill")

    def decode_token(self, state: State, cache: PyTree, token: Int[Array, " B"]) -> tuple[Float[Array, "B V"], PyTree]:
        logits, cache = self.network.apply(state.nets["net"].averaged, token[:, None], cache)
        return logits[:, 0, : self.levels], cache

    def sample(self, state: State, rng: jax.Array, n: int, options: Sampling) -> UInt8[Array, "n H W C"]:
        return grey.to_pixels(self.sample_values(state, rng, n, options), self.levels)

    def sample_values(self, state: State, rng: jax.Array, n: int, options: Sampling) -> Int[Array, "n H W C"]:
        """Values of n images. Classes come in turn, or all are `options.label`."""
        label = options.labels(n, self.num_classes)
        first = jnp.full((n, 1), self.levels, jnp.int32) if label is None else (self.levels + label[:, None])
        text = Text(**options.drawing(), length=math.prod(self.image))
        values, _ = generate(self, state, rng, first, [1] * n, text)
        return values.reshape(n, *self.image)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> PixelTransformer:
    return build(optimizers["net"], **cfg.model_dump())


def build(
    optimizer: Optimizer, image: tuple[int, int, int], levels: int, num_classes: int, **parts: Any
) -> PixelTransformer:
    """Over any grid [H, W, C] of integers below `levels`; `parts` go to `nets.decoder.decoder`."""
    network = decoder(levels + max(num_classes, 1), math.prod(image), **parts)
    return PixelTransformer(network, optimizer, image, levels, num_classes)
