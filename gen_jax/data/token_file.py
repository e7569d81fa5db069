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
        documents, sizes = found["documents"], found["sizes"]
        names = [split for split in SPLITS if split in sizes]
        tokens = {split: np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False) for split in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"config.data.path: no tokens in {cfg.path!r} ({error}), run: gen-jax data tokenize --path=TEXT --out=DIR"
        ) from None
    for split, ids in tokens.items():
        if ids.shape != (sizes[split],):
            raise DataError(f"{folder}: {split}.npy: expected {sizes[split]} tokens, found {list(ids.shape)}")
    plain = read_tokenizer(str(folder / TOKENIZER))
    tokenizer = WithEnd(plain) if documents == "packed" else plain
    info = Info("tokens", (cfg.context + 1,), vocab_size=tokenizer.vocab_size, end=getattr(tokenizer, "end", None))
    return TokenSet(info, tokens, seed, cfg.order, tokenizer, resident=False)
