"""The token between documents."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int32


@dataclasses.dataclass(frozen=True)
class WithEnd:
    """A tokeniser and its token between documents, which no text has: it precedes each document.

    It is the tokeniser's own where it came with one, as GPT-2's did; else one more, the last id.

    Args:
      inner: the plain tokeniser, which alone is saved.
    """

    inner: Any

    @property
    def end(self) -> int:
        return self.inner.vocab_size if self.inner.own_end is None else self.inner.own_end

    @property
    def vocab_size(self) -> int:
        return self.inner.vocab_size + (self.inner.own_end is None)

    def encode(self, text: str) -> Int32[np.ndarray, " T"]:
        return self.inner.encode(text)

    def decode(self, ids: Any) -> str:
        """The text of ids [T], nothing for `end`."""
        ids = np.asarray(ids)
        return self.inner.decode(ids[ids != self.end])

    def num_bytes(self, ids: Any) -> int:
        """The bytes of ids [T], none of `end`."""
        ids = np.asarray(ids)
        return self.inner.num_bytes(ids[ids != self.end])

    def to_json(self) -> str:
        return self.inner.to_json()
