"""Masked diffusion on images: values of pixels are hidden at random, and set one after the other when sampling.

Sahoo et al. 2024 (MDLM), Shi et al. 2024; without a time, order-agnostic models (Uria et al. 2014, Hoogeboom et al.
2022). The mathematics is in `core.masking`.
"""

import dataclasses
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8
from pydantic import Field

from gen_jax.core import filters, grey, guidance, masking, ops
from gen_jax.core.gradients import Batch, Optimizer, Terms, require_optimizers
from gen_jax.core.masking import MASK, Tokens
from gen_jax.core.sampling import Drawn
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.abilities_base import Mask
from gen_jax.models.base import Stepped
from gen_jax.models.denoiser_base import CaptionedConfig, Denoiser, LabelSampling
from gen_jax.settings import NonNegative, Positive, Settings

DRAWS = 8  # sets of hidden tokens of an example in evaluation


class MaskedConfig(CaptionedConfig):
    """Fields of `config.model` of a masked diffusion over a grid."""

    rate: masking.RateName = "linear"
    """The share of hidden values over time, in training and sampling. The bound is the same for all."""


class Config(MaskedConfig):
    """The section `config.model`."""

    levels: grey.Levels = 256
    """Grey levels of a pixel; 2 of binarised images. Fewer than 256 are drawn at random around the pixel, in evaluation
    those of an example are fixed."""


class Unmasking(Drawn):
    """The part of a `Sampling` of every masked diffusion."""

    sampler: masking.SamplerName = "ancestral"
    """`ancestral` draws from the model; `confidence` keeps the likeliest of its draws (MaskGIT, Chang et al. 2022)."""
    steps: Annotated[Positive, Field(le=10_000)] = 64
    """Steps from all hidden to none. The more there are, the fewer values are set at once, independently."""


class Sampling(Unmasking, LabelSampling):
    """The section `config.sampling`."""

    guidance: NonNegative = 1.0
    """Scale of classifier-free guidance, on logits; 1 = off."""

    def check(self, model: Settings) -> None:
        assert isinstance(model, MaskedConfig)
        if self.guidance != 1 and not model.label_dropout:
            raise ValueError("guidance: expected 1 for a model without class_dropout or caption_dropout")
        if self.guidance != 1:
            self.require_label("guidance: expected 1")
        super().check(model)


@dataclasses.dataclass(frozen=True)
class Masked(Denoiser, Stepped):
    """Over a grid of tokens. Subclasses say how a batch is read, and what samples begin and end with.

    The network sees the tokens as vectors, all 0 where hidden, and the log-odds of a token being seen in place of
    lambda. These follow from the tokens: it does not read the time.

    Args:
      image: (height, width, channels) of the grid of T tokens.
      rate: of `masking.RATES`. levels: tokens are below.
    """

    rate: str
    levels: int

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        x = jnp.zeros((1, *self.image[:2], self.image[2] * self.levels))
        return self.network.init(rng, x, jnp.zeros(1), self.label_or_none(None, 1))

    def read(self, batch: Batch, rng: Key[Array, ""] | None) -> tuple[Tokens, Bool[Array, "B T"]]:
        """The tokens [B, T] and which of them count; `rng` is None in evaluation."""
        raise NotImplementedError(f"{type(self).__name__} gives no read")

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, the bound on -log p in nats a token, in evaluation by `DRAWS` sets of hidden tokens."""
        read_rng, time_rng, mask_rng, class_rng, drop_rng = ops.split(rng, 5)
        tokens, counted = self.read(batch, read_rng if train else None)
        if train:
            label = self.label_in_training(batch, class_rng)
            t = ops.spread(time_rng, len(tokens))
            denoiser = self.denoiser(variables, label, {"dropout": drop_rng})
            nats = masking.loss(self.rate, denoiser, tokens, counted, t, mask_rng)
        else:
            nats = self._bound(variables, batch, mask_rng, DRAWS)
        count = counted.sum(1)
        return Terms({"loss": Mean(nats * count, count.astype(jnp.float32))})

    def timed_loss(self, state: State, batch: Batch, t: Float[Array, " B"], rng: jax.Array) -> Float[Array, " B"]:
        """Nats a token, as `terms` with these times."""
        tokens, counted = self.read(batch, None)
        denoiser = self.denoiser(state.nets["net"].averaged, self.label_of(batch))
        return masking.loss(self.rate, denoiser, tokens, counted, t, ops.row_keys(rng, batch["index"]))

    def log_prob(self, state: State, batch: Batch, rng: jax.Array, num_samples: int) -> Float[Array, " B"]:
        """A lower bound on log P(example | class), nats, in the mean over `num_samples` sets of hidden tokens."""
        keys, (_, counted) = ops.row_keys(rng, batch["index"]), self.read(batch, None)
        return -self._bound(state.nets["net"].averaged, batch, keys, num_samples) * counted.sum(1)

    def _bound(self, variables: PyTree, batch: Batch, keys: Key[Array, " B"], draws: int) -> Float[Array, " B"]:
        """Nats a token. The times of the draws are in as many equal parts of [0, 1]."""
        tokens, counted = self.read(batch, None)
        denoiser = self.denoiser(variables, self.label_of(batch))

        def one(i):
            time_rng, mask_rng = ops.split(ops.fold_in(keys, i), 2)
            t = (i + ops.uniform(time_rng, (len(tokens),))) / draws
            return masking.loss(self.rate, denoiser, tokens, counted, t, mask_rng)

        return jax.lax.map(one, jnp.arange(draws)).mean(0)

    # Sampling --------------------------------------------------------------------------------------------------------

    def sample_start(self, n: int, options: Any) -> Tokens:
        """n rows before the first step: MASK where a token is drawn."""
        return jnp.full((n, math.prod(self.image)), MASK)

    def sample_label(self, n: int, options: Any) -> Int[Array, "n *S"] | None:
        """What the samples are conditioned on; None of a model that reads no label."""
        return self.label_asked(options, n) if self.num_classes or self.vocab else None

    def sample_steps(self, options: Any) -> int:
        return options.steps

    def sample_init(self, state: State, rng: jax.Array, n: int, options: Any) -> PyTree:
        keys = jax.random.key_data(ops.row_keys(rng, jnp.arange(n)))
        return {"tokens": self.sample_start(n, options), "keys": keys, "label": self.sample_label(n, options)}

    def sample_step(self, state: State, carry: PyTree, i: Int[Array, ""], options: Any) -> PyTree:
        keys = ops.fold_in(jax.random.wrap_key_data(carry["keys"]), i)
        step = masking.step_of(self.rate, i, options.steps, keys)
        denoiser = self._sampler(state.nets["net"].averaged, carry["label"], options)

        def restrict(logits):
            return filters.restricted(logits, **options.filters())

        return carry | {"tokens": masking.SAMPLERS[options.sampler](denoiser, carry["tokens"], step, restrict)}

    def _sampler(self, variables: PyTree, label: Array | None, options: Any) -> masking.Denoiser:
        """The denoiser that samples are drawn with."""
        conditional = self.denoiser(variables, label)
        if label is None or options.guidance == 1:
            return conditional

        def guided(tokens):  # both in one call, row beside row: rows stay on their devices
            pairs = guidance.pairs(label, jnp.full_like(label, self.num_classes))
            halves = guidance.halves(self.denoiser(variables, pairs)(guidance.pairs(tokens, tokens)))
            return guidance.guided(*halves, options.guidance)

        return guided

    def denoiser(self, variables: PyTree, label: Array | None, rngs: dict | None = None) -> masking.Denoiser:
        """Logits [B, T, V] by the network; `rngs` in training."""

        def denoiser(tokens):
            seen = (tokens >= 0).sum(1)
            odds = jnp.log((seen + 0.5) / (tokens.shape[1] - seen + 0.5))
            x = jax.nn.one_hot(tokens, self.levels).reshape(len(tokens), *self.image[:2], -1)
            y: Any = self.network.apply(variables, x, odds, label, train=rngs is not None, rngs=rngs or {})
            return y.reshape(*tokens.shape, self.levels)

        return denoiser


@dataclasses.dataclass(frozen=True)
class MaskedDiffusion(Masked):
    """`elbo` and `log_prob` are the bound on log P(image | class)."""

    discrete_likelihood: bool = True
    normalised_likelihood: bool = True

    def read(self, batch: Batch, rng: Key[Array, ""] | None) -> tuple[Tokens, Bool[Array, "B T"]]:
        image = batch["image"]
        values = grey.quantise(image, self.levels, grey.evaluation_keys(batch["index"]) if rng is None else rng)
        tokens = values.reshape(len(image), -1)
        return tokens, jnp.ones(tokens.shape, bool)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, the bound on -log P in nats a value; in evaluation also `elbo`, nats an image."""
        means = super().terms(variables, batch, rng, step=step, train=train).means
        return Terms(means if train else means | {"elbo": Mean.of(-means["loss"].total)})

    def inpaint_init(self, state: State, rng: jax.Array, batch: Batch, mask: Mask, options: Sampling) -> PyTree:
        """As `sample_init`, for `label_inpainted`, with the values of evaluation seen where the mask is 1."""
        carry, label = self.sample_init(state, rng, len(mask), options), self.label_inpainted(options, batch, len(mask))
        known = jnp.broadcast_to(mask == 1, batch["image"].shape).reshape(len(mask), -1)
        return carry | {"tokens": jnp.where(known, self.read(batch, None)[0], MASK), "label": label}

    def sample_finish(self, state: State, carry: PyTree, options: Sampling) -> UInt8[Array, "n H W C"]:
        return grey.to_pixels(carry["tokens"].reshape(-1, *self.image), self.levels)

    def sample_shown(self, state: State, carry: PyTree, i: Int[Array, ""], options: Sampling) -> dict[str, Any]:
        """The values, halfway from black to white where they are hidden."""
        hidden = (carry["tokens"] == MASK).reshape(-1, *self.image)
        return {"values": jnp.where(hidden, jnp.uint8(128), self.sample_finish(state, carry, options))}


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> MaskedDiffusion:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    names = "image", "num_classes", "vocab", "label_dropout", "rate", "levels"
    return MaskedDiffusion(cfg.network(), optimizers["net"], *(getattr(cfg, name) for name in names))
