"""The section of `Sampling` that asks for pictures by captions."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int
from pydantic import Field, PrivateAttr

from gen_jax.core.info import Info
from gen_jax.core.sampling import Encode, Prompt, Sampling, token_ids
from gen_jax.settings import Settings


class Captions(Sampling):
    """Of models that may be conditioned on a caption: `Config.vocab` > 0."""

    captions: tuple[Prompt, ...] = Field(default=(), json_schema_extra={"flag": "caption"})
    """Texts, or token ids, that the samples show, in turn; () = captions of the data, "" = no caption."""
    _examples: tuple[Prompt, ...] = PrivateAttr(())

    def check(self, model: Settings) -> None:
        super().check(model)
        if self.captions and not model.vocab:  # pyright: ignore[reportAttributeAccessIssue] - as the docstring says
            raise ValueError("captions: expected none; this model knows no captions")

    @property
    def worded(self) -> list[bool]:
        """Whether there are words in each of `captions`."""
        return [bool(caption.split()) if isinstance(caption, str) else any(caption) for caption in self.captions]

    def require_words(self) -> None:
        """Raises ValueError where a caption is empty."""
        if not all(self.worded):
            raise ValueError("captions: expected words: the model draws none without a caption")

    def completed(self, info: Info, encode: Encode | None) -> dict[str, Any]:
        """`captions` of equal length, padded with 0."""
        found = [token_ids("captions", caption, info, encode) for caption in self.captions]
        longest = max(map(len, info.captions), default=0)
        if any(len(caption) > longest for caption in found):
            raise ValueError(f"captions: expected at most {longest} tokens, as in the data, got {max(map(len, found))}")
        padded = tuple(caption + (0,) * (longest - len(caption)) for caption in found)
        return super().completed(info, encode) | {"captions": padded}

    def prepared(self, info: Info, encode: Encode | None) -> "Captions":
        found: Any = super().prepared(info, encode)
        found._examples = info.captions
        return found

    @property
    def shown(self) -> tuple[Any, ...]:
        """What is asked for, or else captions of the data."""
        return self.captions or self._examples

    def caption_rows(self, n: int) -> Int[Array, "n S"]:
        """The captions of n samples, in turn; of options that are `prepared`."""
        return jnp.asarray(self.shown, jnp.int32)[jnp.arange(n) % len(self.shown)]

    def titles(self, n: int, vocab: int, decode: Callable[[Any], str] | None) -> list[str]:
        return [decode(self.shown[i % len(self.shown)]) for i in range(n)] if vocab and decode else []
