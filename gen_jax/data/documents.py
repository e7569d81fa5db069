"""Documents to a token set: cut into splits, joined, tokenised."""

import numpy as np

from gen_jax.data.base import SPLITS, Arrays, Info, TokenSource, cut, cut_end
from gen_jax.data.datasets import TokenSet
from gen_jax.data.tokenising import tokenised

SEPARATOR = "\n\n"  # between two documents of a split


def pack(documents: list[bytes]) -> Arrays:
    """Texts in UTF-8 as arrays: all of them in `text` uint8 [L], document i ends at `ends` [N]."""
    return {"text": np.frombuffer(b"".join(documents), np.uint8), "ends": np.cumsum([len(one) for one in documents])}


def unpack(arrays: Arrays) -> list[str]:
    """Undoes `pack`."""
    text, ends = arrays["text"].tobytes(), arrays["ends"].tolist()
    return [text[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


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
        pieces = cut_end(SEPARATOR.join(documents), source, missing)
        found = found | {split: [text] for split, text in pieces.items()}
    return {split: found[split] for split in SPLITS if split in found}


def joined(found: dict[str, list[str]], source: TokenSource) -> dict[str, list[str]]:
    """Split -> its documents; one, unless they are packed."""
    if source.documents == "packed":
        return found
    return {split: [SEPARATOR.join(documents)] for split, documents in found.items()}


def token_set(found: dict[str, list[str]], source: TokenSource, seed: int) -> TokenSet:
    """A set of the documents in `found` (split -> documents); the char alphabet is that of all splits.

    Raises DataError where `source.tokenizer_file` is no tokeniser or does not know a character.
    """
    tokenizer, tokens = tokenised(joined(cut_documents(found, source), source), source)
    info = Info("tokens", (source.context + 1,), vocab_size=tokenizer.vocab_size, end=getattr(tokenizer, "end", None))
    return TokenSet(info, tokens, seed, source.order, tokenizer)
