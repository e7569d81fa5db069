"""Tokens that `gen-jax data tokenize` wrote: memory-mapped, for text larger than memory."""

from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from gen_jax.data import reading
from gen_jax.data.datasets import TokenSet
from gen_jax.data.reading import printable
from gen_jax.data.source import SPLITS, Info, Source
from gen_jax.data.tokenising import read_tokenizer
from gen_jax.errors import DataError, first_line
from gen_jax.settings import Count, NeededPath, Positive
from gen_jax.text import WithEnd

BLOCK, CHECKED = 2**20, 2**30  # tokens
INFO, TOKENIZER = "tokens.json", "tokenizer.json"


class Config(Source):
    """Its splits are those in the folder."""

    source: Literal["token_file"] = "token_file"
    path: NeededPath
    """The folder."""
    order: Literal["permuted", "windows", "streams"] = "windows"
    """Order of the windows, as for any text."""
    context: Positive = 128
    """T, the tokens that are read and predicted at once."""


class Facts(pydantic.BaseModel):
    """What INFO says. sizes: split -> tokens, of `train` at least."""

    model_config = pydantic.ConfigDict(strict=True)

    documents: Literal["joined", "packed"]
    vocab_size: Positive
    sizes: dict[str, Count]

    @pydantic.field_validator("sizes")
    @classmethod
    def _has_train(cls, sizes: dict[str, int]) -> dict[str, int]:
        if "train" not in sizes:
            raise ValueError("expected train in it")
        return sizes


def load(cfg: Config, seed: int) -> TokenSet:
    """The set; `seed` is that of the training order. Raises DataError if the folder is not whole."""
    folder = Path(cfg.path).expanduser()
    facts = _facts(folder)
    tokens = {split: _mapped(folder / f"{split}.npy") for split in SPLITS if split in facts.sizes}
    for split, ids in tokens.items():
        if ids.shape != (facts.sizes[split],):
            raise DataError(f"{folder}: {split}.npy: expected {facts.sizes[split]} tokens, found {list(ids.shape)}")
        if ids.dtype not in (np.uint8, np.uint16, np.int32):
            raise DataError(f"{folder}: {split}.npy: expected ids of uint8, uint16 or int32, found {ids.dtype}")
    plain = read_tokenizer(str(folder / TOKENIZER))
    tokenizer = WithEnd(plain) if facts.documents == "packed" else plain
    if (expected := tokenizer.vocab_size) != facts.vocab_size:
        raise DataError(
            f"{folder}: expected {expected} tokens in the vocabulary, found {facts.vocab_size}, tokenise it again"
        )
    info = Info("tokens", (cfg.context + 1,), vocab_size=tokenizer.vocab_size, end=getattr(tokenizer, "end", None))
    for split, ids in tokens.items():
        _check_ids(f"{folder}: {split}.npy", ids, tokenizer.vocab_size)
    return TokenSet(info, tokens, seed, cfg.order, tokenizer, resident=False)


def _facts(folder: Path) -> Facts:
    try:
        return Facts.model_validate(reading.json_of(folder / INFO))
    except DataError as error:
        why = str(error)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        why = f"{INFO}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    raise DataError(
        f"config.data.path: no tokens in {printable(folder)} ({why}), run: gen-jax data tokenize --path=TEXT --out=DIR"
    )


def _mapped(path: Path) -> np.ndarray:
    """The array of an .npy file, read where it is used."""
    reading.size_of(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header: numpy raises many kinds
        raise DataError(f"{printable(path)}: not an .npy of ids: {first_line(error) or type(error).__name__}") from None


def _check_ids(name: str, ids: np.ndarray, vocab_size: int) -> None:
    """Raises DataError if an id is none of the vocabulary; of very long files a sample of CHECKED is looked at."""
    blocks = -(-len(ids) // BLOCK)
    for i in range(0, blocks, max(1, blocks * BLOCK // CHECKED)):
        block = ids[i * BLOCK : (i + 1) * BLOCK]
        if block.min() < 0 or block.max() >= vocab_size:
            raise DataError(f"{name}: expected ids from 0 to {vocab_size - 1}, found {block.min()} to {block.max()}")
