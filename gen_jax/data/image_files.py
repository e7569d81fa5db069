"""Sets of pictures read by index: resident where they fit, streamed where they do not."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gen_jax.data.datasets import ExampleSet
from gen_jax.data.source import SPLITS, Arrays, Feed, Info, Source, cut, cut_arrays

READERS = 8  # threads that decode
AHEAD = 3  # batches that are read ahead


@runtime_checkable
class RandomAccess(Protocol):
    """Pictures by index: {"image": uint8 [H, W, C], "label": int}."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


def stack(examples: Sequence[dict[str, Any]]) -> Arrays:
    """Examples to arrays [n, ...]: uint8 images, int32 labels."""
    types = {"image": np.uint8, "label": np.int32}
    return {name: np.stack([one[name] for one in examples]).astype(types[name], copy=False) for name in examples[0]}


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads some of the pictures of a Grain `MapDataset`, several at a time."""

    pictures: Any
    places: np.ndarray  # [N], where example i of the split is
    pool: ThreadPoolExecutor = dataclasses.field(default_factory=lambda: ThreadPoolExecutor(READERS))

    def __call__(self, index: np.ndarray) -> Arrays:
        return stack(list(self.pool.map(self.pictures.__getitem__, self.places[index].tolist())))


class Prefetched:
    """A feed whose next batches are read in the background; what it gives depends on the step alone."""

    def __init__(self, feed: Feed):
        self.feed = feed
        self.resident, self.num_batches, self.assemble = feed.resident, feed.num_batches, feed.assemble
        self.pool = ThreadPoolExecutor(1)
        self.waiting: dict[tuple, Future] = {}

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        last = step + AHEAD if self.num_batches is None else min(step + AHEAD, self.num_batches - 1)
        wanted = [(s, part.start, part.stop, part.step) for s in range(step, max(last, step) + 1)]
        for key in set(self.waiting) - set(wanted):
            self.waiting.pop(key).cancel()
        for key in wanted:
            if key not in self.waiting:
                self.waiting[key] = self.pool.submit(self.feed.rows, key[0], part)
        return self.waiting[wanted[0]].result()


class StreamedSet(ExampleSet):
    """An `ExampleSet` whose pictures are read batch by batch."""

    def _feed(self, split: str, batch_size: int, seed: int | None) -> Feed:
        return Prefetched(super()._feed(split, batch_size, seed))


def resident_set(info: Info, found: dict[str, Arrays], source: Source, seed: int) -> ExampleSet:
    """Pictures (split -> arrays [N, ...]) that stay on the device, with the missing splits cut."""
    return ExampleSet(info, cut_arrays(found, source), seed)


def streamed_set(info: Info, found: Mapping[str, RandomAccess], source: Source, seed: int) -> ExampleSet:
    """Pictures read as they are needed, with the missing splits cut: the same batches as `resident_set` gives."""
    import grain

    missing = tuple(split for split in ("validation", "test") if split not in found)
    parts = cut(len(found["train"]), source, missing)
    readers: dict[str, Callable[[np.ndarray], Arrays]] = {}
    lengths = {}
    for split in SPLITS:
        if split in found or split in parts:
            own = split in found and split != "train"
            places = np.arange(len(found[split])) if own else parts[split]
            pictures = grain.MapDataset.source(found[split if own else "train"])
            readers[split], lengths[split] = Reader(pictures, places), len(places)
    return StreamedSet(info, {}, seed, readers, lengths)
