"""An interpolated n-gram model with Witten-Bell smoothing: what a neural language model has to beat."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


@dataclasses.dataclass(frozen=True)
class Counts:
    """Sorted keys and their counts for contexts of one length; a key is the tokens as digits to the base `vocab`."""

    grams: np.ndarray  # [G] int64: context and token
    gram_counts: np.ndarray  # [G]
    contexts: np.ndarray  # [C] int64
    totals: np.ndarray  # [C] tokens seen after the context
    kinds: np.ndarray  # [C] different tokens seen after it


@dataclasses.dataclass(frozen=True)
class NGram:
    """Witten-Bell interpolation (Chen and Goodman 1999, eq. 15), from 0 tokens of context to `order - 1`.

        p(w | ctx) = (count(ctx w) + kinds(ctx) p(w | shorter ctx)) / (count(ctx) + kinds(ctx))

    where kinds(ctx) is the number of different tokens seen after the context. It ends at the uniform distribution, and
    a context never seen passes the shorter one's on, so that the probabilities of all `vocab` tokens sum to 1.
    """

    vocab: int
    tables: tuple[Counts, ...]  # by length of context

    @classmethod
    def fit(
        cls, tokens: Shaped[np.ndarray, " N"], order: int, vocab: int, counted: Bool[np.ndarray, " N"] | None = None
    ) -> "NGram":
        """Counts all grams of up to `order` tokens; those that end at tokens which `counted` names, where it is given.

        Raises ValueError if a gram does not fit 63 bits, or a token is not below `vocab`.
        """
        if vocab**order >= 2**63:
            raise ValueError(f"order: expected vocab ** order < 2 ** 63, got {vocab} ** {order}")
        if len(tokens) < order or tokens.min() < 0 or tokens.max() >= vocab:
            raise ValueError(f"tokens: expected at least {order} tokens, each below {vocab}")
        tables = []
        for length in range(order):
            keys = _keys(tokens, length, vocab)
            grams, counts = np.unique(keys if counted is None else keys[counted[length:]], return_counts=True)
            contexts, first = np.unique(grams // vocab, return_index=True)
            kinds = np.diff(first, append=len(grams))
            tables.append(Counts(grams, counts, contexts, np.add.reduceat(counts, first), kinds))
        return cls(vocab, tuple(tables))

    def probabilities(self, tokens: Shaped[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """p of each token given those before it; the first ones have less context."""
        p = np.full(len(tokens), 1 / self.vocab)
        for length, table in enumerate(self.tables[: len(tokens)]):
            keys = _keys(tokens, length, self.vocab)
            count = _lookup(table.grams, table.gram_counts, keys)
            total = _lookup(table.contexts, table.totals, keys // self.vocab)
            kinds = _lookup(table.contexts, table.kinds, keys // self.vocab)
            shorter = p[length:]
            p[length:] = np.where(total > 0, (count + kinds * shorter) / np.maximum(total + kinds, 1), shorter)
        return p

    def bits_per_token(self, tokens: Shaped[np.ndarray, " N"]) -> float:
        """Mean of -log2 p over `tokens`: bits a byte where tokens are bytes."""
        return float(-np.log2(self.probabilities(tokens)).mean())


def apart(
    tokens: Shaped[np.ndarray, " N"], end: int, order: int
) -> tuple[Shaped[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    """Records, each with its `end` behind it, so far from each other that no gram of `order` tokens is of two.

    Returns the tokens with `order` - 1 ends before each record, and which of them are the records' own.
    """
    starts = np.append(0, np.flatnonzero(tokens == end) + 1)
    places = np.repeat(starts[starts < len(tokens)], order - 1)
    return np.insert(tokens, places, end), np.insert(np.ones(len(tokens), bool), places, False)


def _keys(tokens: Shaped[np.ndarray, " N"], length: int, vocab: int) -> Int[np.ndarray, " M"]:
    """The grams of `length + 1` tokens that end at positions `length` ... N - 1."""
    keys = np.zeros(len(tokens) - length, np.int64)
    for i in range(length + 1):
        keys = keys * vocab + tokens[i : len(keys) + i]
    return keys


def _lookup(sorted_keys: np.ndarray, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The values of `keys`, 0 where there is none."""
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[at] == keys, values[at], 0)
