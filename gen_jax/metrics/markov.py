"""Interpolated Markov models over the codes of many sequences: what a model of sound has to beat."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

ROUNDS = 30  # of bisection
HIGHEST = 1 - 1e-6  # weight: what was never seen after a context keeps a probability


@dataclasses.dataclass(frozen=True)
class Table:
    """Sorted keys and counts for contexts of one length; a key is the codes as digits to the base `vocab`."""

    grams: np.ndarray  # [G] int64: context and code
    gram_counts: np.ndarray  # [G]
    contexts: np.ndarray  # [C] int64
    totals: np.ndarray  # [C] codes seen after the context

    @classmethod
    def fit(cls, keys: Int[np.ndarray, " N"], vocab: int) -> "Table":
        grams, counts = np.unique(keys, return_counts=True)
        contexts, first = np.unique(grams // vocab, return_index=True)
        return cls(grams, counts, contexts, np.add.reduceat(counts, first))

    def observed(
        self, keys: Int[np.ndarray, " N"], vocab: int
    ) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """The relative frequency of each gram's code after its context, and how often the context was seen."""
        total = _lookup(self.contexts, self.totals, keys // vocab)
        return _lookup(self.grams, self.gram_counts, keys) / np.maximum(total, 1), total


@dataclasses.dataclass(frozen=True)
class Markov:
    """Jelinek-Mercer interpolation (Chen and Goodman 1999, section 2.3) from 0 codes of context to `order`.

        p(w | ctx) = l f(w | ctx) + (1 - l) p(w | shorter ctx)

    f are relative frequencies in the training sequences, and p without context ends at the uniform distribution. The
    weight l depends on how often the context was seen: one for each power of two, the likeliest on the
    validation sequences, a length of context after the other. A context that was never seen has l = 0; a count that
    validation has no context of takes the weight of the next lower one.
    """

    vocab: int
    start: int  # the code that stands before the first of a sequence, as often as needed
    tables: tuple[Table, ...]  # by length of context
    weights: tuple[np.ndarray, ...]  # by length of context: [buckets]

    @classmethod
    def fit(cls, train: "Sequences", validation: "Sequences", order: int, vocab: int, start: int) -> "Markov":
        """Raises ValueError if a gram does not fit 63 bits."""
        if vocab ** (order + 1) >= 2**63:
            raise ValueError(f"order: expected vocab ** (order + 1) < 2 ** 63, got {vocab} ** {order + 1}")
        tables, weights = [], []
        p = np.full(validation.size, 1 / vocab)
        for length in range(order + 1):
            table = Table.fit(train.grams(length, vocab, start), vocab)
            f, seen = table.observed(validation.grams(length, vocab, start), vocab)
            weights.append(_tune(f, p, _bucket(seen)))
            p = _mix(weights[-1][_bucket(seen)], f, p)
            tables.append(table)
        return cls(vocab, start, tuple(tables), tuple(weights))

    def probabilities(self, sequences: "Sequences", order: int) -> Float[np.ndarray, " N"]:
        """p of every code that counts, with at most `order` codes of context."""
        p = np.full(sequences.size, 1 / self.vocab)
        for length in range(order + 1):
            f, seen = self.tables[length].observed(sequences.grams(length, self.vocab, self.start), self.vocab)
            p = _mix(self.weights[length][_bucket(seen)], f, p)
        return p

    def bits_per_code(self, sequences: "Sequences", order: int) -> float:
        """Mean of -log2 p."""
        return float(-np.log2(self.probabilities(sequences, order)).mean())


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Rows of codes and which of them count: what does not (padding at the end) is neither predicted nor counted."""

    codes: Shaped[np.ndarray, "N T"]
    counted: Bool[np.ndarray, "N T"]

    @property
    def size(self) -> int:
        """Codes that count."""
        return int(self.counted.sum())

    def grams(self, length: int, vocab: int, start: int) -> Int[np.ndarray, " M"]:
        """The keys of `length` codes of context and the code itself, of every code that counts."""
        padded = np.pad(self.codes.astype(np.int64), ((0, 0), (length, 0)), constant_values=start)
        steps = self.codes.shape[1]
        keys = np.zeros_like(padded[:, :steps])
        for i in range(length + 1):
            keys = keys * vocab + padded[:, i : i + steps]
        return keys[self.counted]


def _mix(weight: np.ndarray, f: np.ndarray, shorter: np.ndarray) -> np.ndarray:
    return weight * f + (1 - weight) * shorter


def _bucket(seen: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """0 for contexts never seen, else 1 + floor(log2(seen))."""
    return np.where(seen > 0, np.log2(np.maximum(seen, 1)).astype(np.int64) + 1, 0)


def _tune(f: np.ndarray, shorter: np.ndarray, bucket: np.ndarray, buckets: int = 64) -> Float[np.ndarray, " buckets"]:
    """The weights of largest likelihood, one a bucket; 0 for contexts never seen, the one below's where it is empty.

    The likelihood is concave in each weight, so that bisection of its slope finds the best.
    """
    low, high = np.zeros(buckets), np.full(buckets, HIGHEST)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        slope = np.bincount(bucket, (f - shorter) / _mix(middle[bucket], f, shorter), minlength=buckets)
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    size = np.bincount(bucket, minlength=buckets)
    filled = np.maximum.accumulate(np.where(size > 0, np.arange(buckets), 0))
    return np.where(np.arange(buckets) > 0, low, 0)[filled]


def _lookup(sorted_keys: np.ndarray, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The values of `keys`, 0 where there is none."""
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[at] == keys, values[at], 0)
