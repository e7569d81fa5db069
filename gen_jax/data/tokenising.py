"""Documents to ids, piece by piece: the same ids whether a text is in memory or streamed."""

import hashlib
import importlib.metadata
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from gen_jax import text
from gen_jax.data import reading
from gen_jax.data.source import Arrays, Tokenizer, TokenSource
from gen_jax.errors import ConfigError, DataError
from gen_jax.io.cache import cached

PIECE = 2**18  # characters that are encoded at once; a BPE token never crosses the border of two
BATCH = 2**21  # characters that are encoded in parallel

Document = Iterable[str]  # its pieces, each of PIECE characters but the last
SavedTokenizer = text.ByteTokenizer | text.CharTokenizer | text.BPETokenizer


def dtype_of(vocab_size: int) -> type[np.integer]:
    """The smallest of uint8, uint16 and int32 that holds the ids."""
    return np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.int32


def pieces(document: str) -> Iterator[str]:
    """The text in pieces."""
    return (document[start : start + PIECE] for start in range(0, len(document), PIECE))


def read_tokenizer(path: str) -> SavedTokenizer:
    """A tokeniser that was saved.

    Raises DataError if the file is none, ConfigError where it does not give back texts exactly.
    """
    try:
        size, read = _opened(path)
        if size > text.LARGEST:
            raise ValueError(f"found {size:,} bytes, more than {text.LARGEST:,}")
        tokenizer = text.from_json(read().decode("utf-8-sig"))
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"config.data.tokenizer_file: {path}: expected a saved tokeniser, {error}") from None
    if why := text.why_not_exact(tokenizer):
        raise ConfigError(f"config.data.tokenizer_file: {path}: expected one that gives back any text exactly; {why}")
    return tokenizer


def _opened(path: str) -> tuple[int, Callable[[], bytes]]:
    """The bytes of a file, local or not, and what reads them."""
    file = epath.Path(path).expanduser()
    if "://" in path:
        return file.stat().length, file.read_bytes
    here = Path(file)
    return reading.size_of(here), lambda: reading.contents(here)


def new_tokenizer(kind: str, vocab_size: int, train: Iterable[Document], everything: Iterable[Document]) -> Any:
    """A tokeniser of a text.

    Args:
      kind, vocab_size: as in `TokenSource`.
      train: documents that a BPE is trained on.
      everything: documents whose characters are the alphabet of `char`.
    """
    if kind == "bpe":
        return text.BPETokenizer.train(itertools.chain.from_iterable(train), vocab_size)
    if kind == "char":
        alphabet: set[str] = set().union(*itertools.chain.from_iterable(everything))
        return text.CharTokenizer.of("".join(alphabet))
    return text.ByteTokenizer()


def encoded(tokenizer: Tokenizer, documents: Iterable[Document], end: int | None = None) -> Iterator[np.ndarray]:
    """The ids of all documents in order, in arrays int32 [L].

    Args:
      end: the token before each document, if there is one.

    Raises ValueError that names a character which the tokeniser does not know.
    """
    marker = None if end is None else np.array([end], np.int32)
    batch: list[str | None] = []  # pieces, and None at the start of a document
    size = 0
    for document in documents:
        batch.append(None)
        for piece in document:
            batch.append(piece)
            size += len(piece)
            if size >= BATCH:
                yield from _encoded(tokenizer, batch, marker)
                batch, size = [], 0
    yield from _encoded(tokenizer, batch, marker)


def _encoded(tokenizer: Any, batch: list[str | None], marker: np.ndarray | None) -> Iterator[np.ndarray]:
    texts = [piece for piece in batch if piece is not None]
    parallel = getattr(tokenizer, "encode_all", None)
    ids = iter(parallel(texts) if parallel else map(tokenizer.encode, texts))
    for piece in batch:
        if piece is not None:
            yield next(ids)
        elif marker is not None:
            yield marker


def tokenised(texts: dict[str, list[str]], source: TokenSource) -> tuple[Tokenizer, dict[str, np.ndarray]]:
    """The tokeniser, with an end token where documents are packed, and split -> ids [L] of its `dtype_of`.

    Args:
      texts: split -> documents.

    A BPE and its ids are cached.
    """
    saved = read_tokenizer(source.tokenizer_file) if source.tokenizer_file else None
    if isinstance(saved, text.BPETokenizer) or (saved is None and source.tokenizer == "bpe"):
        arrays = cached(_cache_name(texts, source, saved), lambda: _bpe_arrays(texts, source, saved))
        plain, ids = (
            text.BPETokenizer(arrays["tokenizer"].tobytes().decode()),
            {split: arrays[split] for split in texts},
        )
    else:
        plain = saved or _new(texts, source)
        ids = _ids(texts, source, plain)
    tokenizer = plain if source.documents == "joined" else text.WithEnd(plain)
    return tokenizer, {split: array.astype(dtype_of(tokenizer.vocab_size)) for split, array in ids.items()}


def _new(texts: dict[str, list[str]], source: TokenSource) -> SavedTokenizer:
    everything = itertools.chain.from_iterable(texts.values())
    return new_tokenizer(source.tokenizer, source.vocab_size, map(pieces, texts["train"]), map(pieces, everything))


def _ids(texts: dict[str, list[str]], source: TokenSource, tokenizer: SavedTokenizer) -> dict[str, np.ndarray]:
    end = None if source.documents == "joined" else text.WithEnd(tokenizer).end
    try:
        return {
            split: np.concatenate([np.zeros(0, np.int32), *encoded(tokenizer, map(pieces, documents), end)])
            for split, documents in texts.items()
        }
    except ValueError as error:
        raise DataError(f"config.data.tokenizer_file: {error}") from None


def _bpe_arrays(texts: dict[str, list[str]], source: TokenSource, saved: text.BPETokenizer | None) -> Arrays:
    tokenizer = saved or _new(texts, source)
    return _ids(texts, source, tokenizer) | {"tokenizer": np.frombuffer(tokenizer.to_json().encode(), np.uint8)}


def _cache_name(texts: dict[str, list[str]], source: TokenSource, saved: text.BPETokenizer | None) -> str:
    """Changes with all that the ids depend on."""
    version = importlib.metadata.version("tokenizers")
    digest = hashlib.sha256(f"2 {version} {source.documents} {saved.json if saved else source.vocab_size}".encode())
    for split, documents in texts.items():
        digest.update(f"{split} {[len(one) for one in documents]}".encode())
        for one in documents:
            digest.update(one.encode())
    return f"bpe-{digest.hexdigest()[:16]}"
