"""What a user can ask of `sample`: sections that a model's own `Sampling` is made of.

A model file declares `class Sampling(...)` beside its `Config`, with exactly the fields that its sampler reads. The
flags of `gen-jax sample`, `config.sampling`, `evals.<name>.sampling` and the facts in a metric's tag derive from it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Int
from pydantic import BeforeValidator, Field

from gen_jax.core.info import Info
from gen_jax.errors import ConfigError
from gen_jax.settings import (
    Fraction,
    NonNegative,
    Number,
    Period,
    Positive,
    PositiveFloat,
    Settings,
    Whole,
    validate,
)

MOST_SAMPLES = 2**20  # at once
LONGEST, LENGTH = 2**24, 256  # of a sample: the most tokens, and how many where neither user nor data say
Encode = Callable[[str], Any]  # text -> token ids


def _label(value: Any) -> Any:
    if value not in ("each", "none") and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError("expected a class, 'each' or 'none'")
    return value


def _prompt(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or any(isinstance(i, bool) or not isinstance(i, int) for i in value):
        raise ValueError("expected a text or token ids")
    return tuple(value)


Label = Annotated[int | str, BeforeValidator(_label)]
Prompt = Annotated[Any, BeforeValidator(_prompt)]


class Sampling(Settings):
    """The base of every model's `Sampling`."""

    def check(self, model: Settings) -> None:
        """Refuses what a model of this `Config` cannot do.

        Raises:
          ValueError: the message begins with a field's name.
        """

    def completed(self, info: Info, encode: Encode | None) -> dict[str, Any]:
        """The fields that depend on the data: texts as tokens, lengths, the token that ends a text.

        Raises:
          ValueError: the data lack what is asked for. The message begins with a field's name.
        """
        return {}

    def prepared(self, info: Info, encode: Encode | None) -> "Sampling":
        """What `sample` takes: the same with the fields that `completed` gives, and its errors."""
        return self.model_copy(update=self.completed(info, encode))

    @property
    def distinct(self) -> int:
        """Prompts before they come again."""
        return 1

    @property
    def size(self) -> int:
        """Tokens, or samples of sound, of one sample and its prompt; 0 where it has the shape of the data."""
        return 0

    def labels(self, n: int, num_classes: int) -> Int[Array, " n"] | None:
        """The classes of n samples, each class in turn; None of a model without classes."""
        return jnp.arange(n) % num_classes if num_classes else None

    def titles(self, n: int, vocab: int, decode: Callable[[Any], str] | None) -> list[str]:
        """The captions of n samples; [] of a model without captions, whose `vocab` is 0, or without a tokenizer."""
        return []

    def facts(self) -> dict[str, str]:
        """What differs from the defaults, as a metric's tag says it: no value holds a comma."""
        values = self.model_dump(mode="json")
        changed = {name: value for name, value in self if value != type(self).model_fields[name].default}
        return {f"sampling.{name}": _fact(values[name]) for name in changed}


def _fact(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if text.isalnum() or isinstance(value, float) else hashlib.sha256(text.encode()).hexdigest()[:8]


class Noise(Sampling):
    """Of models that map noise to samples."""

    temperature: NonNegative = 1.0
    """Scales the noise; 1 is the model itself, 0 its mode."""


class Classes(Sampling):
    """Of models that may be conditioned on a class: `Config.num_classes` > 0."""

    label: Label = "each"
    """The class of all samples; `each` takes every class in turn, `none` asks for samples of no class."""

    def check(self, model: Settings) -> None:
        super().check(model)
        classes: int = model.num_classes  # pyright: ignore[reportAttributeAccessIssue] - as the docstring says
        if self.label == "none" and classes:
            raise ValueError(f"label: expected 'each' or a class below {classes}: the model draws none without a class")
        if isinstance(self.label, int) and self.label >= classes:
            known = f"'each' or a class below {classes}" if classes else "none; this model knows no classes"
            raise ValueError(f"label: expected {known}, got {self.label}")

    def labels(self, n: int, num_classes: int) -> Int[Array, " n"] | None:
        if isinstance(self.label, int) and num_classes:
            return jnp.full(n, self.label)
        return super().labels(n, num_classes)


class Drawn(Sampling):
    """How a token is drawn from logits."""

    temperature: NonNegative = 1.0
    """Divides the logits; 1 is the model itself, 0 always takes the likeliest token."""
    top_k: Period = 0
    """Draws of the k likeliest tokens, of equal ones those with the lowest ids; 0 = of all."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Draws of the fewest likeliest tokens whose probability reaches p (Holtzman et al. 2020); 1 = of all."""
    min_p: Fraction = 0.0
    """Draws of tokens at least p times as likely as the likeliest (Nguyen et al. 2024); 0 = of all."""

    def filters(self) -> dict[str, Any]:
        """What `core.filters.restricted` takes."""
        return {name: getattr(self, name) for name in Drawn.model_fields}


class Tokens(Drawn):
    """How a token is drawn from logits after others."""

    repetition_penalty: PositiveFloat = 1.0
    """Divides positive logits of earlier tokens and multiplies negative ones (Keskar et al. 2019); 1 = off."""

    def drawing(self) -> dict[str, Any]:
        """The fields above."""
        return {name: getattr(self, name) for name in Tokens.model_fields}


class Prompted(Sampling):
    """Of sequences that continue prompts."""

    length: Annotated[Positive, Field(le=LONGEST)] | None = None
    """The most new tokens, or samples of sound; None = as many as the longest record or sound of the data, else 256."""
    prompts: tuple[Prompt, ...] = Field(default=(), json_schema_extra={"flag": "prompt"})
    """Texts, or token ids, that the samples continue, in turn; () = from the start."""

    def completed(self, info: Info, encode: Encode | None) -> dict[str, Any]:
        longest = info.shape[0] if info.kind == "audio" else info.shape[0] - 1 if info.records else LENGTH
        prompts = tuple(token_ids("prompts", prompt, info, encode) for prompt in self.prompts)
        return super().completed(info, encode) | {"length": self.length or longest, "prompts": prompts}

    @property
    def distinct(self) -> int:
        return max(1, len(self.prompts))

    @property
    def size(self) -> int:
        return max(map(len, self.prompts), default=0) + (self.length or LENGTH)


def token_ids(field: str, text: str | tuple[int, ...], info: Info, encode: Encode | None) -> tuple[int, ...]:
    """A text, or its token ids, as token ids. Raises ValueError, which begins with `field`, if the data lack them."""
    if isinstance(text, str):
        if encode is None:
            raise ValueError(f"{field}: expected no text: the data have no tokenizer that encodes; token ids are taken")
        try:
            return tuple(int(i) for i in encode(text))
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from None
    if info.vocab_size and any(not 0 <= token < info.vocab_size for token in text):
        raise ValueError(f"{field}: expected token ids from 0 to {info.vocab_size - 1}, got {max(text)}")
    return text


class Continuation(Tokens, Prompted):
    """Of models of text that end a text by themselves; `core.beam` searches where it is asked to."""

    min_length: Annotated[Period, Field(le=LONGEST)] = 0
    """New tokens before a text may end."""
    beams: Period = 0
    """Hypotheses of a beam search, which draws nothing; 0 = draw."""
    length_penalty: NonNegative = 0.6
    """A hypothesis scores log p / length ** length_penalty."""

    @pydantic.model_validator(mode="after")
    def _fits(self) -> "Continuation":
        for name in Tokens.model_fields if self.beams else ():
            default = Tokens.model_fields[name].default
            if getattr(self, name) != default:
                raise ValueError(f"{name}: expected {default} beside beams: a beam search draws nothing")
        if not self.beams and self.length_penalty != (default := Continuation.model_fields["length_penalty"].default):
            raise ValueError(f"length_penalty: expected {default} without beams, whose hypotheses it ranks")
        if self.length is not None:
            self._check_min_length(self.length)
        return self

    def completed(self, info: Info, encode: Encode | None) -> dict[str, Any]:
        found = super().completed(info, encode)
        self._check_min_length(found["length"])
        return found

    def _check_min_length(self, length: int) -> None:
        if self.min_length > length:
            raise ValueError(f"min_length: expected at most the length, {length}, got {self.min_length}")


class Text(Continuation):
    """Of language models: `end` is the data's where it is not asked for."""

    end: Whole | None = None
    """The token that ends a text; None = that of the data, if they have one."""

    def completed(self, info: Info, encode: Encode | None) -> dict[str, Any]:
        end = info.end if self.end is None else self.end
        if end is not None and info.vocab_size and not 0 <= end < info.vocab_size:
            raise ValueError(f"end: expected a token from 0 to {info.vocab_size - 1}, got {end}")
        if self.min_length and end is None:
            raise ValueError("min_length: expected none; the texts of this model have no end token")
        return super().completed(info, encode) | {"end": end}


Options = TypeVar("Options", bound=Sampling)


def parse(cls: type[Options], model: Settings, section: Any, key: str) -> Options:
    """A section of a config as a model's `Sampling`.

    Args:
      model: the model's `Config`.
      key: of the section, for an error.

    Raises:
      ConfigError: a field is unknown or wrong, or the model cannot do it.
    """
    found = validate(cls, section, key)
    try:
        found.check(model)
    except ValueError as error:
        raise ConfigError(f"{key}.{error}") from None
    return found


def updated(options: Options, model: Settings, section: Any, key: str) -> Options:
    """`options` with the fields that a section names; as `parse`."""
    if isinstance(section, Mapping):
        section = {**options.model_dump(), **section}
    return parse(type(options), model, section, key)
