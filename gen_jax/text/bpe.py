"""Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019): `decode(encode(text))` is `text`."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

BYTES = 256


@dataclasses.dataclass(frozen=True)
class BPETokenizer:
    """Tokens are strings of bytes, merged from pairs; any text has an encoding.

    Args:
      json: what `to_json` gave, in the format of the library `tokenizers`.
    """

    json: str = dataclasses.field(repr=False)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """The `vocab_size` - 256 most frequent merges of `texts`; fewer where the texts have no more pairs.

        Words, numbers and punctuation are cut apart as in GPT-2 before pairs are counted. The same texts give the same
        tokeniser. Raises ValueError for a `vocab_size` below 256.
        """
        if vocab_size < BYTES:
            raise ValueError(f"vocab_size: expected at least {BYTES}, one a byte, got {vocab_size}")
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe.to_str())

    @classmethod
    def from_json(cls, json: str) -> "BPETokenizer":
        """Undoes `to_json`."""
        return cls(json)

    def to_json(self) -> str:
        return self.json

    @functools.cached_property
    def _bpe(self) -> Any:
        import tokenizers

        return tokenizers.Tokenizer.from_str(self.json)

    @property
    def vocab_size(self) -> int:
        return self._bpe.get_vocab_size()

    def encode(self, text: str) -> Int32[np.ndarray, " T"]:
        return np.array(self._bpe.encode(text).ids, np.int32)

    def encode_all(self, texts: Sequence[str]) -> list[Int32[np.ndarray, "_"]]:
        """`encode` of each, on all cores."""
        return [np.array(encoding.ids, np.int32) for encoding in self._bpe.encode_batch(list(texts))]

    def decode(self, ids: Any) -> str:
        """The text of ids [T]; bytes that are not UTF-8 become U+FFFD, ids beyond the vocabulary nothing."""
        return self._bpe.decode(np.asarray(ids).tolist(), skip_special_tokens=False)
