"""Tokenisers whose `decode(encode(text))` is `text`, exactly."""

import dataclasses
import functools
import json
from typing import Any

import numpy as np
from jaxtyping import Int32


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes: 256 tokens, any text."""

    vocab_size: int = dataclasses.field(default=256, init=False)
    own_end: None = dataclasses.field(default=None, init=False)

    def encode(self, text: str) -> Int32[np.ndarray, " T"]:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids: Any) -> str:
        """The text of ids [T]; bytes that are not UTF-8, as a model may write them, become U+FFFD.

        Ids beyond the vocabulary, which a model may have room for, become nothing.
        """
        ids = np.asarray(ids)
        return ids[ids < 256].astype(np.uint8).tobytes().decode(errors="replace")

    def num_bytes(self, ids: Any) -> int:
        """The bytes of ids [T], whether or not they begin and end with a whole character."""
        return int((np.asarray(ids) < 256).sum())

    def to_json(self) -> str:
        return json.dumps({"kind": "byte"})


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """One token a character of `alphabet`, which is sorted and holds each once."""

    alphabet: str
    own_end: None = dataclasses.field(default=None, init=False)

    @classmethod
    def of(cls, *texts: str) -> "CharTokenizer":
        """The tokeniser of all characters in `texts`."""
        return cls("".join(sorted(set().union(*texts))))

    @property
    def vocab_size(self) -> int:
        return len(self.alphabet)

    @functools.cached_property
    def _points(self) -> np.ndarray:
        return _code_points(self.alphabet)

    def encode(self, text: str) -> Int32[np.ndarray, " T"]:
        """Raises ValueError that names a character outside the alphabet."""
        points = _code_points(text)
        ids = np.searchsorted(self._points, points).astype(np.int32)
        known = self._points[np.minimum(ids, len(self._points) - 1)] == points if self.alphabet else points < 0
        if not known.all():
            raise ValueError(
                f"text: {text[int(np.argmin(known))]!r} is not among the {self.vocab_size} known characters"
            )
        return ids

    def decode(self, ids: Any) -> str:
        """The text of ids [T]; those beyond the vocabulary, which a model may have room for, become nothing."""
        return "".join(self.alphabet[i] for i in np.asarray(ids).tolist() if i < self.vocab_size)

    def num_bytes(self, ids: Any) -> int:
        """The bytes in UTF-8 of ids [T]."""
        ids, sizes = np.asarray(ids), np.array([len(c.encode()) for c in self.alphabet], np.int64)
        return int(sizes[ids[ids < self.vocab_size]].sum())

    def to_json(self) -> str:
        return json.dumps({"kind": "char", "alphabet": self.alphabet})


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
