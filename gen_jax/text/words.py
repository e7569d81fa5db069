"""A tokeniser of whole words, for texts whose words are all known."""

import dataclasses
import json
from typing import Any

import numpy as np
from jaxtyping import Int32


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """Words between spaces. Word i has the id i + 1; the id 0 pads, and is no word."""

    words: tuple[str, ...]

    @property
    def vocab_size(self) -> int:
        return 1 + len(self.words)

    def encode(self, text: str) -> Int32[np.ndarray, " T"]:
        """Raises ValueError that names an unknown word, and the known ones."""
        known = {word: i for i, word in enumerate(self.words, 1)}
        for word in text.split():
            if word not in known:
                raise ValueError(f"expected words of {', '.join(self.words)}; got {word!r}")
        return np.array([known[word] for word in text.split()], np.int32)

    def decode(self, ids: Any) -> str:
        """The words of ids [T] with spaces between them; nothing for what is no word."""
        return " ".join(self.words[i - 1] for i in np.asarray(ids).tolist() if 0 < i < self.vocab_size)

    def num_bytes(self, ids: Any) -> int:
        """The bytes in UTF-8 of the text of ids [T]."""
        return len(self.decode(ids).encode())

    def to_json(self) -> str:
        return json.dumps({"kind": "words", "words": self.words})
