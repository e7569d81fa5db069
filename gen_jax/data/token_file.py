"""Tokens that `gen-jax data tokenize` wrote: memory-mapped, for text larger than memory."""

import json
from pathlib import Path
from typing import Literal

import numpy as np

from gen_jax.data.base import SPLITS, Info, Source
from gen_jax.data.datasets import TokenSet
from gen_jax.data.tokenising import read_tokenizer
from gen_jax.errors import DataError
from gen_jax.settings import Positive, UserPath
from gen_jax.text import WithEnd

BLOCK, CHECKED = 2**20, 2**30  # tokens
INFO, TOKENIZER = "tokens.json", "tokenizer.json"


class Config(Source):
    """path: the folder. order, context: as of any text (`TokenSource`); its splits are those in the folder."""

    source: Literal["token_file"] = "token_file"
    path: UserPath
    order: Literal["permuted", "windows", "streams"] = "windows"
    context: Positive = 128


def load(cfg: Config, seed: int) -> TokenSet:
    """The set; `seed` is that of the training order. Raises DataError where the folder is not whole."""
    folder = Path(cfg.path).expanduser()
    try:
        found = json.loads((folder / INFO).read_text())
        documents, sizes, vocab_size = found["documents"], found["sizes"], found["vocab_size"]
        names = [split for split in SPLITS if split in sizes]
        tokens = {split: np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False) for split in names}
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"config.data.path: no tokens in {cfg.path!r} ({error}), run: gen-jax data tokenize --path=TEXT --out=DIR"
        ) from None
    for split, ids in tokens.items():
        if ids.shape != (sizes[split],):
            raise DataError(f"{folder}: {split}.npy: expected {sizes[split]} tokens, found {list(ids.shape)}")
        if ids.dtype not in (np.uint8, np.uint16, np.int32):
            raise DataError(f"{folder}: {split}.npy: expected ids of uint8, uint16 or int32, found {ids.dtype}")
    plain = read_tokenizer(str(folder / TOKENIZER))
    tokenizer = WithEnd(plain) if documents == "packed" else plain
    if (expected := tokenizer.vocab_size) != vocab_size:
        raise DataError(
            f"{folder}: expected {expected} tokens in the vocabulary, found {vocab_size}, tokenise it again"
        )
    info = Info("tokens", (cfg.context + 1,), vocab_size=tokenizer.vocab_size, end=getattr(tokenizer, "end", None))
    for split, ids in tokens.items():
        _check_ids(f"{folder}: {split}.npy", ids, tokenizer.vocab_size)
    return TokenSet(info, tokens, seed, cfg.order, tokenizer, resident=False)


def _check_ids(name: str, ids: np.ndarray, vocab_size: int) -> None:
    """Raises DataError where an id is none of the vocabulary; of very long files a sample of CHECKED is looked at."""
    blocks = -(-len(ids) // BLOCK)
    for i in range(0, blocks, max(1, blocks * BLOCK // CHECKED)):
        block = ids[i * BLOCK : (i + 1) * BLOCK]
        if block.min() < 0 or block.max() >= vocab_size:
            raise DataError(f"{name}: expected ids from 0 to {vocab_size - 1}, found {block.min()} to {block.max()}")
