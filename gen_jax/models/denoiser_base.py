"""What models of image denoisers share: the network, classes and captions, dropout."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
from pydantic import model_validator

from gen_jax.core import ops
from gen_jax.core.captions import Captions
from gen_jax.core.gradients import Batch
from gen_jax.core.info import Info
from gen_jax.core.sampling import Classes
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.nets.dit import DiT
from gen_jax.nets.unet import UNet
from gen_jax.settings import Count, Few, Fraction, Positive, Settings, Switch, Widths

DIT = ("layers", "width", "positions", "scan_layers", "remat")  # fields that one network alone reads
UNET = ("widths", "blocks", "attention")


class DenoiserConfig(ModelConfig):
    """Fields of `config.model` that say which network denoises which images."""

    image: tuple[Positive, Positive, Positive]
    """(height, width, channels) of the data."""
    net: Literal["dit", "unet"] = "dit"
    """`dit` is a Transformer over patches, `unet` has residual blocks on maps of falling, then rising sides."""
    patch: Positive = 2
    """Side of a patch: a position of `dit`, and of the first map of `unet`."""
    layers: Few = 6
    """Blocks of `dit`."""
    width: Positive = 128
    """Width of the residual stream of `dit`."""
    positions: Literal["learned", "sinusoids", "rotary"] = "sinusoids"
    """How `dit` knows where a patch is: a table that is added, learned or fixed, or rotary embeddings."""
    scan_layers: Switch = False
    """Scans one compiled block over the layers of `dit`."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass of `dit` recomputes instead of keeping."""
    widths: Widths = (64, 128, 128)
    """Channels of the stages of `unet`. Each but the last halves the sides."""
    blocks: Few = 1
    """Residual blocks of a stage of `unet` on the way down; one more on the way up."""
    attention: tuple[Positive, ...] = ()
    """Heights of the maps of `unet` that attend."""
    heads: Positive = 4
    """Heads of each attention."""
    dropout: Fraction = 0.0
    """Dropout rate of the residual branches."""
    num_classes: Count = 0
    """0, or the number of classes that the model is conditioned on."""
    class_dropout: Fraction = 0.0
    """Share of the training examples without their class. Guidance and `label=none` need it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""

    @model_validator(mode="after")
    def _network_fits(self) -> "DenoiserConfig":
        for name in UNET if self.net == "dit" else DIT:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: expected no value beside net = {self.net!r}, which does not read it")
        field, halvings = ("patch", 0) if self.net == "dit" else ("widths", len(self.widths[1:]))
        part = self.patch * 2**halvings
        if not self.widths:
            raise ValueError("widths: expected at least one")
        if self.image[0] % part or self.image[1] % part:
            raise ValueError(f"{field}: expected image sides divisible by {part}, got {self.image[0]}, {self.image[1]}")
        attending = {0: self.width} if self.net == "dit" else self._attending()
        if missing := set(self.attention) - set(attending):
            raise ValueError(f"attention: expected heights of maps, none is {min(missing)}")
        if any(width % self.heads for width in attending.values()):
            raise ValueError(f"heads: expected a divisor of the channels that attend, {[*attending.values()]}")
        if self.positions == "sinusoids" and self.width % 4:
            raise ValueError(f"width: expected a multiple of 4 beside positions by sinusoids, got {self.width}")
        if self.positions == "rotary" and self.width // self.heads % 4:
            raise ValueError(f"heads: expected width / heads divisible by 4 beside rotary positions, got {self.heads}")
        if self.class_dropout and not self.num_classes:
            raise ValueError("class_dropout: expected 0 for a model without classes")
        return self

    def _attending(self) -> dict[int, int]:
        """Height -> channels of the maps of `unet` that attend."""
        sides = {self.image[0] // self.patch >> i: width for i, width in enumerate(self.widths)}
        return {side: width for side, width in sides.items() if side in self.attention}

    @property
    def fused(self) -> dict[str, int]:
        """As in `models.transformer`."""
        modulated = {".*/modulation/kernel": 6 if self.net == "dit" else 2, "last_modulation/kernel": 2}
        attention = {".*/qkv/kernel": 3 * self.heads, ".*/kv/kernel": 2 * self.heads, ".*/q/kernel": self.heads}
        return attention | modulated

    def example(self) -> Info | None:
        """What the data are, as far as a step reads them; None where the config does not say."""
        return Info("image", self.image, self.num_classes)

    def check_data(self, info: Info) -> None:
        info.require_images("image", self.image)
        self.check_condition(info)

    def check_condition(self, info: Info) -> None:
        """Raises ConfigError if the data's classes or captions are others."""
        info.require_classes("num_classes", self.num_classes)

    def network(self, **more: Any) -> nn.Module:
        """(images, lambda, label or caption) -> prediction, as in `nets.dit`, which takes `more`."""
        fields = DIT if self.net == "dit" else UNET
        part: dict[str, Any] = self.model_dump(include={*fields, "patch", "heads", "num_classes", "dropout", "dtype"})
        return DiT(**part, **more) if self.net == "dit" else UNet(**part, **more)


class MaybeClass(Classes):
    """The part of a `Sampling` that says the class; with `class_dropout` also `label=none`."""

    def check(self, model: Settings) -> None:
        assert isinstance(model, DenoiserConfig)
        if not (self.label == "none" and model.class_dropout):
            super().check(model)

    def labels(self, n: int, num_classes: int) -> Int[Array, " n"] | None:
        return None if self.label == "none" else super().labels(n, num_classes)


class CaptionedConfig(DenoiserConfig):
    """Of a model that may be conditioned on captions instead of classes."""

    vocab: Count = 0
    """0, or the number of tokens of the captions that the model is conditioned on."""
    caption_layers: Few = 2
    """Blocks of the encoder of captions."""
    caption_dropout: Fraction = 0.0
    """Share of the training examples without their caption. Guidance and `caption=""` need it."""

    @model_validator(mode="after")
    def _captions_fit(self) -> "CaptionedConfig":
        for name in ("caption_layers", "caption_dropout"):
            default = type(self).model_fields[name].default
            if not self.vocab and getattr(self, name) != default:
                raise ValueError(f"{name}: expected {default} for a model without captions")
        if self.vocab and self.num_classes:
            raise ValueError("vocab: expected 0 beside num_classes: a model reads classes or captions")
        if self.vocab and self.net == "unet" and not self.attention:
            raise ValueError("attention: expected a height of maps that attend to captions")
        return self

    @property
    def label_dropout(self) -> float:
        """Share of the training examples without their class or caption."""
        return self.class_dropout or self.caption_dropout

    def example(self) -> Info | None:
        return None if self.vocab else super().example()

    def check_condition(self, info: Info) -> None:
        super().check_condition(info)
        info.require_captions("vocab", self.vocab)

    def network(self, **more: Any) -> nn.Module:
        return super().network(vocab=self.vocab, caption_layers=self.caption_layers, **more)


class LabelSampling(Captions, MaybeClass):
    """The part of a `Sampling` that says the class or the caption."""

    def check(self, model: Settings) -> None:
        assert isinstance(model, CaptionedConfig)
        if not model.caption_dropout:
            self.require_words()
        super().check(model)

    def require_label(self, expected: str) -> None:
        """Raises ValueError, which begins with `expected`, where samples of no label are asked for."""
        if self.label == "none":
            raise ValueError(f"{expected} beside label = 'none'")
        if self.captions and not any(self.worded):
            raise ValueError(f"{expected} beside captions without words")


@dataclasses.dataclass(frozen=True)
class Denoiser(LossModel):
    """Its network reads a label: a class [B], `num_classes` for none, or a caption [B, S], whose words are not 0."""

    image: tuple[int, int, int]
    num_classes: int
    vocab: int
    label_dropout: float

    def label_of(self, batch: Batch) -> Int[Array, "B *S"] | None:
        """The labels of a batch; None of a model without classes and captions."""
        return batch["caption"] if self.vocab else batch["label"] if self.num_classes else None

    def label_in_training(self, batch: Batch, rng: jax.Array) -> Int[Array, "B *S"] | None:
        """`label_of` with a share of the labels replaced by those for none."""
        label = self.label_of(batch)
        if label is None:
            return None
        dropped = ops.uniform(rng, (len(label), *(1,) * (label.ndim - 1))) < self.label_dropout
        return jnp.where(dropped, self.num_classes, label)

    def label_or_none(self, label: Array | None, n: int) -> Int[Array, "n *S"] | None:
        """The labels that the network reads, those for none if `label` is None; None of a model that reads none."""
        if not self.num_classes and not self.vocab:
            return None
        none = jnp.full((n, 1) if self.vocab else n, self.num_classes)
        return none if label is None else label

    def label_asked(self, options: LabelSampling, n: int) -> Int[Array, "n *S"] | None:
        """The labels of n samples as the network reads them."""
        asked = options.caption_rows(n) if self.vocab else options.labels(n, self.num_classes)
        return self.label_or_none(asked, n)

    def label_inpainted(self, options: LabelSampling, batch: Batch, n: int) -> Int[Array, "n *S"] | None:
        """`label_asked`; the labels of the batch where none are asked for."""
        asked = bool(options.captions) if self.vocab else options.label != "each"
        return self.label_asked(options, n) if asked else self.label_of(batch)
