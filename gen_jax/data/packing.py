"""Pairs of short sequences laid side by side in rows of fixed size, each with a segment number of its own."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Int64

from gen_jax.data.source import Arrays

OPEN = 16  # rows that a pair may still go to


@dataclasses.dataclass(frozen=True)
class Sequences:
    """N sequences of ids, concatenated."""

    flat: Int32[np.ndarray, " L"]
    sizes: Int64[np.ndarray, " N"]

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray], end: int) -> "Sequences":
        """The sequences, each followed by `end`."""
        closed = [np.append(one, np.int32(end)) for one in sequences]
        return cls(np.concatenate(closed), np.array([len(one) for one in closed], np.int64))

    @classmethod
    def join(cls, parts: "list[Sequences]") -> "Sequences":
        """All of them, in order."""
        return cls(np.concatenate([one.flat for one in parts]), np.concatenate([one.sizes for one in parts]))

    def take(self, index: Int[np.ndarray, " n"]) -> "Sequences":
        """Those of `index`, in its order."""
        return Sequences(self.flat[_ranges(self._starts[index], self.sizes[index])], self.sizes[index])

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum(self.sizes) - self.sizes


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """start, start + 1, ... (`size` of them) of each, joined."""
    return np.arange(sizes.sum()) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)


class Layout(NamedTuple):
    """Where each of N pairs lies."""

    rows: Int64[np.ndarray, " N"]
    segments: Int64[np.ndarray, " N"]  # from 1
    places: Int64[np.ndarray, "N 2"]  # of the first token of its source and target in the row


def pack(sizes: Int[np.ndarray, "N 2"], capacity: int) -> Layout:
    """First fit among the last `OPEN` rows, in order; both sides of a row's pairs fit into `capacity`."""
    table, open_rows, count = [], [], 0  # open: [row, pairs, source taken, target taken]
    for source, target in sizes.tolist():
        for one in open_rows:
            if one[2] + source <= capacity and one[3] + target <= capacity:
                break
        else:
            one = [count, 0, 0, 0]
            open_rows, count = [*open_rows[1 - OPEN :], one], count + 1
        one[1] += 1
        table.append(tuple(one))
        one[2] += source
        one[3] += target
    laid = np.array(table, np.int64).reshape(-1, 4)
    return Layout(laid[:, 0], laid[:, 1], laid[:, 2:])


def one_a_row(n: int) -> Layout:
    """Pair i in row i."""
    return Layout(np.arange(n), np.ones(n, np.int64), np.zeros((n, 2), np.int64))


def rows_of_pairs(source: Sequences, target: Sequences, layout: Layout, widths: tuple[int, int], end: int) -> Arrays:
    """Rows of pairs, R of them.

    Args:
      source, target: N pairs, each sequence with its `end`.
      widths: S and T, positions for sources and targets.
      end: also what a target begins with.

    Returns:
      source, source_segment int32 [R, S]: s_1 ... s_m end; 0 on padding.
      tokens int32 [R, T + 1]: end t_1 ... t_n end; the end of a pair is the beginning of the next.
      segment int32 [R, T]: of the tokens that are read. mask float32 [R, T]: 1 where the next token counts.
    """
    count = int(layout.rows.max()) + 1
    (ids, source_segment), (targets, segment) = (
        _filled(one, layout, layout.places[:, side], (count, widths[side])) for side, one in enumerate((source, target))
    )
    tokens = np.concatenate([np.full((count, 1), end, np.int32), targets], axis=1)
    mask = (segment > 0).astype(np.float32)
    return {"source": ids, "source_segment": source_segment, "tokens": tokens, "segment": segment, "mask": mask}


def _filled(sequences: Sequences, layout: Layout, places: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Ids and segments, int32 [2, R, C]."""
    filled = np.zeros((2, shape[0] * shape[1]), np.int32)
    at = _ranges(layout.rows * shape[1] + places, sequences.sizes)
    filled[0, at], filled[1, at] = sequences.flat, np.repeat(layout.segments, sequences.sizes)
    return filled.reshape(2, *shape)
