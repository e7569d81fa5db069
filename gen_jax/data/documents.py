"""Documents to a token set: cut into splits, joined, tokenised."""

import numpy as np

from gen_jax.data.base import SPLITS, Info, TokenSource, cut
from gen_jax.data.datasets import TokenSet
from gen_jax.text import ByteTokenizer, CharTokenizer

SEPARATOR = "\n\n"  # between two documents of a split


def cut_documents(found: dict[str, list[str]], source: TokenSource) -> dict[str, list[str]]:
    """Adds the splits that `found` lacks, cut from its `train`.

    Whole documents by `split_seed`; where there is only one, its end: train, then validation, then test.
    """
    missing = tuple(split for split in ("validation", "test") if split not in found)
    missing = tuple(split for split in missing if getattr(source, split) > 0)
    documents = found["train"]
    if not missing:
        return found
    if len(documents) > len(missing):
        parts = cut(len(documents), source, missing)
        found = found | {split: [documents[i] for i in index] for split, index in parts.items()}
    else:
        text = SEPARATOR.join(documents)
        start = end = len(text)
        pieces = {}
        for split in reversed(missing):
            start = end - round(len(text) * getattr(source, split))
            pieces[split], end = [text[start:end]], start
        found = found | {"train": [text[:end]]} | pieces
    return {split: found[split] for split in SPLITS if split in found}


def token_set(found: dict[str, list[str]], source: TokenSource, seed: int) -> TokenSet:
    """A set of the documents in `found` (split -> documents); the char alphabet is that of all splits."""
    texts = {split: SEPARATOR.join(documents) for split, documents in cut_documents(found, source).items()}
    tokenizer = CharTokenizer.of(*texts.values()) if source.tokenizer == "char" else ByteTokenizer()
    dtype = np.uint8 if tokenizer.vocab_size <= 256 else np.int32
    tokens = {split: tokenizer.encode(text).astype(dtype) for split, text in texts.items()}
    info = Info("tokens", (source.context + 1,), vocab_size=tokenizer.vocab_size)
    return TokenSet(info, tokens, seed, source.order, tokenizer)
