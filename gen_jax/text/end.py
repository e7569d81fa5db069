"""The token between documents."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int32


@dataclasses.dataclass(frozen=True)
class WithEnd:
    """A tokeniser and one token more, the last id, which no text has: it stands before each document.

    Args:
      inner: the plain tokeniser, which alone is saved.
    """

    inner: Any

    @property
    def end(self) -> int:
        return self.inner.vocab_size

    @property
    def vocab_size(self) -> int:
        return self.inner.vocab_size + 1

    def encode(self, text: str) -> Int32[np.ndarray, " T"]:
        return self.inner.encode(text)

    def decode(self, ids: Any) -> str:
        """The text of ids [T], nothing for `end`."""
        ids = np.asarray(ids)
        return self.inner.decode(ids[ids != self.end])

    def to_json(self) -> str:
        return self.inner.to_json()
