"""Records of text, one a row: names, words, short sentences."""

import dataclasses
import sys

import numpy as np
from jaxtyping import Integer

from gen_jax.data import feeds
from gen_jax.data.datasets import has_split
from gen_jax.data.packing import Sequences
from gen_jax.data.source import Arrays, Feed, Info, Tokenizer
from gen_jax.errors import ConfigError
from gen_jax.text import WithEnd


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """Records, each an example of its own.

    A batch holds tokens int32 [B, T + 1], rows `[end, t_1 ... t_n, end, padding]`, and mask float32 [B, T], 1 on the
    n + 1 targets of a row. T is that of the longest record.

    Args:
      records: split -> records, each followed by its end token.
      seed: of the training order.
    """

    info: Info
    records: dict[str, Sequences]
    seed: int
    tokenizer: WithEnd

    @property
    def sizes(self) -> dict[str, int]:
        """Records in each split."""
        return {split: len(records.sizes) for split, records in self.records.items()}

    def contents(self, split: str) -> Arrays:
        """The arrays of a split."""
        records = self.records[split]
        return {"tokens": records.flat, "sizes": records.sizes}

    def train_feed(self, batch_size: int) -> Feed:
        """Endless; epoch e follows a permutation by (seed, e), and a batch may straddle two epochs."""
        return self._feed(self.records["train"], batch_size, self.seed)

    def eval_feed(self, split: str, batch_size: int) -> Feed:
        """Every record once, in order. Raises ConfigError if there is no such split."""
        parts = [self.records[part] for part in has_split(split, self.sizes)]
        return self._feed(Sequences.join(parts), batch_size, None)

    def _feed(self, records: Sequences, batch_size: int, seed: int | None) -> Feed:
        context, end = self.info.shape[0] - 1, self.tokenizer.end
        return feeds.Examples(
            {}, len(records.sizes), batch_size, seed, lambda index: rows(records.take(index), context, end)
        )

    def with_arrays(self, extra: dict[str, Arrays]) -> "RecordSet":
        raise ConfigError("data: arrays for each example can be added to images and vectors, not to text")

    def with_seed(self, seed: int) -> "RecordSet":
        """The same records in another training order."""
        return dataclasses.replace(self, seed=seed)


def rows(records: Sequences, context: int, end: int) -> Arrays:
    """The rows of n records: tokens int32 [n, context + 1], padded with `end`, and mask float32 [n, context]."""
    counts = np.arange(context) < records.sizes[:, None]
    tokens = np.full((len(counts), context + 1), end, np.int32)
    tokens[:, 1:][counts] = records.flat
    return {"tokens": tokens, "mask": counts.astype(np.float32)}


def sequences(ids: Integer[np.ndarray, " L"], end: int) -> Sequences:
    """The records of a text in which each is preceded by `end`."""
    flat = np.append(ids[1:], end).astype(np.int32)
    return Sequences(flat, np.diff(np.flatnonzero(flat == end), prepend=-1))


def record_set(tokenizer: Tokenizer, ids: dict[str, np.ndarray], context: int, seed: int) -> RecordSet:
    """A set of the records in `ids` (split -> [L], an end token before each record).

    Training leaves out records of more than `context` tokens, their end included, and says on stderr how many.

    Raises ConfigError that names `context` where a record of another split, or each of training, is longer.
    """
    assert isinstance(tokenizer, WithEnd)
    found = {split: sequences(part, tokenizer.end) for split, part in ids.items()}
    for split, records in found.items():
        fits = np.flatnonzero(records.sizes <= context)
        total, longest = len(records.sizes), records.sizes.max()
        if split != "train" and len(fits) < total:
            raise ConfigError(
                f"config.data.context: expected at least {longest}, the tokens of the longest {split} record and its "
                f"end, got {context}"
            )
        if not len(fits):
            least = records.sizes.min()
            raise ConfigError(
                f"config.data.context: expected at least {least}, the tokens of the shortest training record and its "
                f"end, got {context}"
            )
        if len(fits) < total:
            left = total - len(fits)
            print(f"data: {left:,} of {total:,} training records exceed {context} tokens: left out", file=sys.stderr)
            found[split] = records.take(fits)
    width = int(max(records.sizes.max() for records in found.values()))
    info = Info("tokens", (width + 1,), vocab_size=tokenizer.vocab_size, end=tokenizer.end, records=True)
    return RecordSet(info, found, seed, tokenizer)
