"""Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019): `decode(encode(text))` is `text`."""

import dataclasses
import functools
import json as json_library
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

BYTES = 256
SPARE = 2**16  # ids without a token that a vocabulary may have beside as many as it has tokens
# what tokenisers call the token between two documents, the likeliest first
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]")


@dataclasses.dataclass(frozen=True)
class BPETokenizer:
    """Tokens are strings of bytes, merged from pairs; any text has an encoding.

    What the library `tokenizers` would do to a text beside that is turned off: truncation, padding, tokens around the
    text, random merges, and special tokens where their name is written in a text.

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

        bpe = tokenizers.Tokenizer.from_str(self.json)
        bpe.no_truncation()
        bpe.no_padding()
        bpe.encode_special_tokens = True
        if getattr(bpe.model, "dropout", None):
            bpe.model.dropout = None
        return bpe

    @functools.cached_property
    def _tokens(self) -> list[bytes]:
        """The bytes of each token by id; none of an id without a token."""
        vocabulary = self._bpe.get_vocab()
        size = max(vocabulary.values(), default=-1) + 1
        if not 0 < size <= 2 * len(vocabulary) + SPARE:
            raise ValueError(f"expected ids from 0 on, found {len(vocabulary)} tokens with ids up to {size - 1}")
        spelled = _byte_level if '"ByteLevel"' in json_library.dumps(self._decoder) else _spelled_out
        tokens = [b""] * size
        for token, i in vocabulary.items():
            tokens[i] = spelled(token)
        return tokens

    @property
    def _decoder(self) -> Any:
        return json_library.loads(self.json).get("decoder")

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([len(token) for token in self._tokens])

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @functools.cached_property
    def own_end(self) -> int | None:
        """The token between documents that the tokeniser came with, one of `ENDS` which no text has; None without."""
        for name in ENDS:
            i = self._bpe.token_to_id(name)
            if i is not None and i not in self.encode(name):
                return i
        return None

    def encode(self, text: str) -> Int32[np.ndarray, " T"]:
        """Raises ValueError if the tokens are not exactly the text."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[Int32[np.ndarray, "_"]]:
        """`encode` of each, on all cores."""
        raw = [text.encode() for text in texts]
        encodings = _guarded(lambda: self._bpe.encode_batch(list(texts), add_special_tokens=False))
        found = [np.array(encoding.ids, np.int32) for encoding in encodings]
        for content, ids in zip(raw, found, strict=True):
            if (made := self._joined(ids)) != content:
                raise ValueError(_difference(content, made))
        return found

    def decode(self, ids: Any) -> str:
        """The text of ids [T]; bytes that are not UTF-8 become U+FFFD, ids beyond the vocabulary nothing."""
        return self._joined(np.asarray(ids)).decode(errors="replace")

    def num_bytes(self, ids: Any) -> int:
        """The bytes of ids [T], whether or not they begin and end with a whole character."""
        ids = np.asarray(ids)
        return int(self._sizes[ids[ids < self.vocab_size]].sum())

    def _joined(self, ids: np.ndarray) -> bytes:
        return b"".join(map(self._tokens.__getitem__, ids[ids < self.vocab_size].tolist()))


def read(json: str) -> BPETokenizer:
    """A tokeniser in the format of the library `tokenizers`.

    Raises ValueError for what that library cannot read.
    """
    tokenizer = BPETokenizer(json)
    _guarded(lambda: tokenizer.vocab_size)
    return tokenizer


def _guarded(call: Any) -> Any:
    """What `call` of the library returns. Raises ValueError for its errors, which have no narrower kind."""
    try:
        return call()
    except ValueError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # Rust's, not an Exception
            raise ValueError(str(error).partition("\n")[0]) from None
        raise


@functools.cache
def _of_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: visible bytes map to themselves, the others to U+0100 and up."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(BYTES) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


def _byte_level(token: str) -> bytes:
    letters = _of_letters()
    return bytes(letters[c] for c in token) if all(c in letters for c in token) else _utf8(token)


def _spelled_out(token: str) -> bytes:
    """A token as it is written, or the one byte of `<0x0A>`."""
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return bytes([int(byte[1], 16)]) if byte else _utf8(token)


def _utf8(token: str) -> bytes:
    return token.encode(errors="surrogatepass")


def _difference(text: bytes, made: bytes) -> str:
    """Where `made` first differs from `text`."""
    place = next((i for i, pair in enumerate(zip(text, made, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(text), len(made)) if place is None else place
    start = max(0, place - 8)
    here, there = (one[start : place + 8].decode(errors="replace") for one in (text, made))
    return f"the tokeniser does not give back a text exactly: {here!r} becomes {there!r}"
