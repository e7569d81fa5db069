"""Pairs of texts, a source and a target: the data of translation and summarisation."""

import dataclasses
import functools
import sys
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from gen_jax.data import feeds
from gen_jax.data.datasets import has_split
from gen_jax.data.packing import Sequences, one_a_row, pack, rows_of_pairs
from gen_jax.data.source import Arrays, Feed, Info, Source
from gen_jax.data.tokenising import read_tokenizer
from gen_jax.errors import ConfigError, DataError
from gen_jax.settings import LARGEST_VOCABULARY, Positive, UserPath, Whole
from gen_jax.text import BPETokenizer, WithEnd

Vocabulary = Annotated[Whole, Field(ge=256, le=LARGEST_VOCABULARY)]  # at least one token a byte
Texts = tuple[list[str], list[str]]  # sources and targets, in the same order


class PairSource(Source):
    """Pairs, seen in a new permutation each epoch; several share a row (`data.packing`)."""

    order: Literal["permuted"] = "permuted"
    """Always a new permutation each epoch."""
    tokenizer: Literal["bpe"] = "bpe"
    """Always a byte-level BPE that both languages share."""
    context: Positive = 64
    """Positions of a row, for sources and for targets; longer training pairs are left out."""
    vocab_size: Vocabulary = 6_000
    """Vocabulary of the BPE, trained on the training split. One more token is the end, `Info.end`."""
    tokenizer_file: UserPath = ""
    """A saved tokeniser (a run's tokenizer.json), used instead."""


@dataclasses.dataclass(frozen=True)
class PackedPairs:
    """Rows of packed pairs: each pair once an epoch, in the order of a permutation by (seed, epoch).

    Epochs need not have the same number of rows; a batch may straddle two.
    """

    source: Sequences
    target: Sequences
    batch_size: int
    context: int
    end: int
    seed: int
    num_batches: None = None

    @property
    def resident(self) -> Arrays:
        return {}

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [0]  # the first row of each epoch that was looked at, and of the next

    @functools.cached_property
    def _rows(self) -> dict[int, Arrays]:
        return {}  # of the last epochs

    def _epoch(self, epoch: int) -> Arrays:
        """All rows of an epoch, [R, ...]."""
        if epoch not in self._rows:
            order = feeds.permutation(self.seed, epoch, len(self.source.sizes))
            source, target = self.source.take(order), self.target.take(order)
            layout = pack(np.stack([source.sizes, target.sizes], axis=1), self.context)
            rows = rows_of_pairs(source, target, layout, (self.context, self.context), self.end)
            for old in sorted(self._rows)[:-1]:
                del self._rows[old]
            self._rows[epoch] = rows
        return self._rows[epoch]

    def _find(self, position: int) -> int:
        """The epoch of a row."""
        while self._starts[-1] <= position:
            self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)["mask"]))
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        """`index` is the row's place in its epoch."""
        pieces, (start, stop, _) = [], part.indices(self.batch_size)
        position, last = step * self.batch_size + start, step * self.batch_size + stop
        while position < last:
            epoch = self._find(position)
            begin, end = position - self._starts[epoch], min(last, self._starts[epoch + 1]) - self._starts[epoch]
            rows = {name: array[begin:end] for name, array in self._epoch(epoch).items()}
            pieces.append(rows | {"index": np.arange(begin, end, dtype=np.int32), "valid": np.ones(end - begin, bool)})
            position += end - begin
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def assemble(self, resident: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
        return rows


@dataclasses.dataclass(frozen=True)
class PairSet:
    """Pairs of sequences of ids, each with its end.

    Args:
      pairs: split -> sources and targets.
      seed: of the training order.
    """

    info: Info
    pairs: dict[str, tuple[Sequences, Sequences]]
    seed: int
    tokenizer: WithEnd

    @property
    def context(self) -> int:
        return self.info.shape[0]

    @property
    def sizes(self) -> dict[str, int]:
        """Pairs in each split."""
        return {split: len(source.sizes) for split, (source, _) in self.pairs.items()}

    def contents(self, split: str) -> Arrays:
        """The arrays of a split."""
        source, target = self.pairs[split]
        return {"source": source.flat, "sources": source.sizes, "target": target.flat, "targets": target.sizes}

    def train_feed(self, batch_size: int) -> Feed:
        """Endless, packed; without the pairs that do not fit into a row."""
        source, target = self.pairs["train"]
        fits = np.flatnonzero(np.maximum(source.sizes, target.sizes) <= self.context)
        if not len(fits):
            raise ConfigError(f"config.data.context: expected at least {self._longest('train')}, found {self.context}")
        return PackedPairs(source.take(fits), target.take(fits), batch_size, self.context, self._end, self.seed)

    def eval_feed(self, split: str, batch_size: int) -> Feed:
        """Pair i in row i, all of the width of the split's longest; splits joined by `+` follow each other.

        Raises ConfigError if there is no such split, or a pair does not fit into the context: none is left out.
        """
        parts = has_split(split, self.sizes)
        if (longest := max(map(self._longest, parts))) > self.context:
            raise ConfigError(f"config.data.context: expected at least {longest}, the longest pair of {split}")
        pairs = [self.pairs[part] for part in parts]
        source, target = (Sequences.join([pair[side] for pair in pairs]) for side in (0, 1))
        widths = int(source.sizes.max()), int(target.sizes.max())
        n = len(source.sizes)
        return feeds.Examples(rows_of_pairs(source, target, one_a_row(n), widths, self._end), n, batch_size, None)

    def with_arrays(self, extra: dict[str, Arrays]) -> "PairSet":
        raise ConfigError("data: arrays for each example can be added to images and vectors, not to pairs")

    def with_seed(self, seed: int) -> "PairSet":
        """The same pairs in another training order."""
        return dataclasses.replace(self, seed=seed)

    def _longest(self, split: str) -> int:
        return int(max(side.sizes.max() for side in self.pairs[split]))

    @property
    def _end(self) -> int:
        assert self.info.end is not None
        return self.info.end


def pair_set(found: dict[str, Texts], source: PairSource, seed: int) -> PairSet:
    """A set of the texts in `found`; says on stderr how many training pairs are too long.

    Raises DataError if a split has no pairs.
    """
    for split, (sources, _) in found.items():
        if not sources:
            raise DataError(f"data: no pairs in {split}")
    if source.tokenizer_file:
        plain = read_tokenizer(source.tokenizer_file)
    else:
        plain = BPETokenizer.train([*found["train"][0], *found["train"][1]], source.vocab_size)
    tokenizer = WithEnd(plain)
    pairs = {split: (_ids(tokenizer, texts[0]), _ids(tokenizer, texts[1])) for split, texts in found.items()}
    info = Info("pairs", (source.context, source.context + 1), vocab_size=tokenizer.vocab_size, end=tokenizer.end)
    long = int((np.maximum(*(side.sizes for side in pairs["train"])) > source.context).sum())
    if long:
        total = len(found["train"][0])
        print(f"data: {long} of {total} training pairs exceed {source.context} tokens: left out", file=sys.stderr)
    return PairSet(info, pairs, seed, tokenizer)


def _ids(tokenizer: WithEnd, texts: list[str]) -> Sequences:
    try:
        if isinstance(tokenizer.inner, BPETokenizer):
            return Sequences.of(tokenizer.inner.encode_all(texts), tokenizer.end)
        return Sequences.of([tokenizer.encode(text) for text in texts], tokenizer.end)
    except ValueError as error:
        raise DataError(f"config.data.tokenizer_file: {error}") from None
