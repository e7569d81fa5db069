"""Documents to a token set: cut into splits, joined or taken apart into lines, tokenised."""

import sys

import numpy as np

from gen_jax.data import utf8
from gen_jax.data.datasets import TokenSet
from gen_jax.data.records import RecordSet, record_set
from gen_jax.data.source import SPLITS, Arrays, Info, TokenSource, cut, cut_end
from gen_jax.data.tokenising import tokenised
from gen_jax.errors import DataError

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

    Whole documents by `split_seed`; where there is only one, its end: train, then validation, then test. Lines are
    always whole: DataError where there are too few.
    """
    missing = tuple(split for split in ("validation", "test") if split not in found)
    missing = tuple(split for split in missing if getattr(source, split) > 0)
    documents = found["train"]
    if not missing:
        return found
    if len(documents) > len(missing) or source.documents == "lines":
        parts = cut(len(documents), source, missing)
        found = found | {split: [documents[i] for i in index] for split, index in parts.items()}
    else:
        pieces = cut_end(SEPARATOR.join(documents), source, missing)
        found = found | {split: [text] for split, text in pieces.items()}
    return {split: found[split] for split in SPLITS if split in found}


def in_lines(found: dict[str, list[str]], source: TokenSource) -> dict[str, list[str]]:
    """Split -> its lines that are not blank; the splits that `found` (split -> documents) lacks are cut from `train`.

    A line on stderr counts the records of each split, the blank lines, and the records of other splits that are
    also in training. Raises DataError if a split has no records.
    """
    every = {split: [line for one in texts for line in utf8.lines(one)] for split, texts in found.items()}
    kept = {split: [line for line in lines if line.strip()] for split, lines in every.items()}
    if empty := next((split for split, lines in kept.items() if not lines), None):
        raise DataError(f"data: expected a record a line, found none for {empty}")
    blank = sum(map(len, every.values())) - sum(map(len, kept.values()))
    kept = cut_documents(kept, source)
    known = set(kept["train"])
    facts = ["records: " + ", ".join(f"{split} {len(lines):,}" for split, lines in kept.items())]
    facts += [f"skipped: {blank:,} blank lines"] if blank else []
    facts += [
        f"{sum(line in known for line in lines):,} of {split} also occur in train"
        for split, lines in kept.items()
        if split != "train"
    ]
    print(f"data: {'; '.join(facts)}", file=sys.stderr, flush=True)
    return kept


def joined(found: dict[str, list[str]], source: TokenSource) -> dict[str, list[str]]:
    """Split -> its documents; one, unless they are packed."""
    if source.documents == "packed":
        return found
    return {split: [SEPARATOR.join(documents)] for split, documents in found.items()}


def token_set(found: dict[str, list[str]], source: TokenSource, seed: int) -> TokenSet | RecordSet:
    """A set of the documents in `found` (split -> documents); the char alphabet is that of all splits.

    Raises DataError if `source.tokenizer_file` is no tokeniser or does not know a character; of lines also as
    `in_lines` and `record_set`.
    """
    if source.documents == "lines":
        return record_set(*tokenised(in_lines(found, source), source), source.context, seed)
    tokenizer, tokens = tokenised(joined(cut_documents(found, source), source), source)
    info = Info("tokens", (source.context + 1,), vocab_size=tokenizer.vocab_size, end=getattr(tokenizer, "end", None))
    return TokenSet(info, tokens, seed, source.order, tokenizer)
