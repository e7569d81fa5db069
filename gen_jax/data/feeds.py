"""Batches as pure functions of (seed, step).

Small sets live on the device: `rows` gives indices or offsets, `assemble` gathers. Where a set does not fit, `fetch`
(of text: `HostTokens`) reads the examples and `rows` carries them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from gen_jax.data.source import Arrays
from gen_jax.errors import ConfigError

Fetch = Callable[[np.ndarray], Arrays]  # indices [n] -> arrays [n, ...]


@functools.lru_cache(maxsize=32)  # seeds that train together read an epoch, or two, each
def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of epoch `epoch`: int64 [n]."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def permuted(seed: int, positions: np.ndarray, n: int) -> np.ndarray:
    """The examples at `positions` [B] of the endless sequence of epochs: int32 [B]."""
    epochs, places = np.divmod(positions, n)
    index = np.empty(len(positions), np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        index[here] = permutation(seed, int(epoch), n)[places[here]]
    return index


def gather(array: Any, index: Any) -> Any:
    """Rows `index` [...] of `array` [N, ...]."""
    return jnp.take(array, index, axis=0, mode="clip")


@dataclasses.dataclass(frozen=True)
class Examples:
    """A split of n images or vectors.

    Args:
      resident: arrays [n, ...] for the device.
      fetch: what is not resident, read by index.
      seed: of the permutations; None = in order, once, the last batch padded with rows that are not valid.
    """

    resident: Arrays
    n: int
    batch_size: int
    seed: int | None
    fetch: Fetch | None = None

    @property
    def num_batches(self) -> int | None:
        return -(-self.n // self.batch_size) if self.seed is None else None

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        positions = step * self.batch_size + np.arange(self.batch_size)[part]
        if self.seed is None:
            rows = {"index": np.minimum(positions, self.n - 1).astype(np.int32), "valid": positions < self.n}
        else:
            rows = {"index": permuted(self.seed, positions, self.n), "valid": np.ones(len(positions), bool)}
        return rows | self.fetch(rows["index"]) if self.fetch else rows

    def assemble(self, resident: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
        return {name: gather(array, rows["index"]) for name, array in resident.items()} | rows


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Windows of T + 1 tokens of one flat text.

    Where rows continue from batch to batch, `reset` [B] names those that do not continue row b of the batch before.
    A text of L tokens has L - 1 targets, token i + 1 after token i.
    """

    resident: Arrays  # {"tokens": [L]}
    batch_size: int
    context: int

    @property
    def num_batches(self) -> int | None:
        return None

    def __post_init__(self):
        if self.targets < self.context:
            raise ConfigError(f"config.data.context: expected at most {max(self.targets, 0)}, the length of the split")

    @property
    def targets(self) -> int:
        return len(self.resident["tokens"]) - 1

    @property
    def integer(self) -> type[np.signedinteger]:
        """Of offsets; those beyond int32 stay on the host."""
        return np.int32 if self.targets < 2**31 else np.int64

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        raise NotImplementedError

    def assemble(self, resident: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
        places = rows["offset"][..., None] + jnp.arange(self.context + 1)  # [B, T+1]
        batch = {name: value for name, value in rows.items() if name != "offset"}
        return batch | {"tokens": gather(resident["tokens"], places).astype(jnp.int32)}

    def train_rows(self, offset: np.ndarray) -> Arrays:
        index = (offset & (2**31 - 1)).astype(np.int32)
        return {"offset": offset, "index": index, "valid": np.ones(len(offset), bool)}


@dataclasses.dataclass(frozen=True)
class Windows(Tokens):
    """Windows that start anywhere."""

    seed: int = 0

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        draw = np.random.default_rng([self.seed, step])
        offset = draw.integers(0, self.targets - self.context + 1, self.batch_size, self.integer)[part]
        return self.train_rows(offset)


@dataclasses.dataclass(frozen=True)
class PermutedWindows(Tokens):
    """Windows side by side, each once an epoch; less than T targets at the end of the text are left out."""

    seed: int = 0

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        positions = step * self.batch_size + np.arange(self.batch_size)[part]
        window = permuted(self.seed, positions, self.targets // self.context)
        offset = window.astype(self.integer) * self.integer(self.context)
        return self.train_rows(offset)


@dataclasses.dataclass(frozen=True)
class Streams(Tokens):
    """Row b reads its own stretch of the text, a window a step, and starts again at its end."""

    def __post_init__(self):
        super().__post_init__()
        if self.targets // self.batch_size < self.context:
            most = self.targets // self.batch_size
            raise ConfigError(
                f"config.data.context: expected at most {most}, the length of a row's stretch of the text"
            )

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        stretch = self.targets // self.batch_size
        window = step % (stretch // self.context)
        row = np.arange(self.batch_size, dtype=self.integer)[part]
        offset = row * self.integer(stretch) + self.integer(window * self.context)
        return self.train_rows(offset) | {"reset": np.full(len(row), window == 0)}


@dataclasses.dataclass(frozen=True)
class EvalTokens(Tokens):
    """Every target once, in the layout of streams: row b reads consecutive windows, so that a carry can continue.

    Each of the B rows starts cold on its own stretch, so a carried evaluation depends on the batch size: the larger it
    is, the more tokens are read with little before them. `index` is the number of the window in the text; `mask` [B, T]
    is 0 on targets past its end.
    """

    def __post_init__(self):
        if self.targets < 1:
            raise ConfigError("data: expected at least 2 tokens in an evaluated split")

    @property
    def num_batches(self) -> int:
        windows = -(-self.targets // self.context)
        return -(-windows // self.batch_size)

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        row = np.arange(self.batch_size, dtype=np.int32)[part]
        index = row * np.int32(self.num_batches) + np.int32(step)
        offset = index.astype(self.integer) * self.integer(self.context)
        target = offset[:, None] + np.arange(self.context, dtype=self.integer)  # [B, T]
        mask = (target < self.targets).astype(np.float32)
        reset = np.full(len(row), step == 0)
        return {"offset": offset, "index": index, "valid": offset < self.targets, "reset": reset, "mask": mask}


@dataclasses.dataclass(frozen=True)
class HostTokens:
    """The batches of a feed of tokens whose text stays on the host, as a memory-mapped file: `rows` carries them."""

    feed: Tokens

    @property
    def resident(self) -> Arrays:
        return {}

    @property
    def num_batches(self) -> int | None:
        return self.feed.num_batches

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        rows = self.feed.rows(step, part)
        places = rows.pop("offset").astype(np.int64)[:, None] + np.arange(self.feed.context + 1)  # [B, T+1]
        tokens = self.feed.resident["tokens"]
        return rows | {"tokens": tokens[np.minimum(places, len(tokens) - 1)].astype(np.int32)}

    def assemble(self, resident: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
        return dict(rows)
