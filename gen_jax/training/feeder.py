"""From a data set to batches on the devices of a mesh."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from gen_jax.config import Experiment
from gen_jax.parallel import pmap, sharding


class Feeder:
    """Training rows by step, and the batches of a split.

    Attributes:
      feed: the training feed. Its `assemble` makes a batch from resident arrays and rows, inside the compiled step.
    """

    def __init__(self, experiment: Experiment, dataset: Any, mesh: jax.sharding.Mesh):
        self.experiment, self.dataset, self.mesh = experiment, dataset, mesh
        self.feed = dataset.train_feed(experiment.batch_size)
        self.pmapped = experiment.parallel == "pmap"

    @functools.cached_property
    def resident(self) -> dict:
        """The training arrays that stay on the devices."""
        resident = sharding.place(self.feed.resident, sharding.replicated(self.mesh))
        return pmap.replicate(resident, self.mesh) if self.pmapped else resident

    def rows(self, step: int) -> dict:
        """The input of the steps from `step` on, [K, B, ...], on the devices. Each process loads its own part."""
        rows = self.host_rows(step)
        if self.pmapped:
            return pmap.split_rows(rows, self.mesh)
        return sharding.place(rows, sharding.rows(self.mesh, leading=1))

    def host_rows(self, step: int) -> dict:
        """This process's part of `rows`, on the host."""
        part = sharding.local_rows(self.mesh, self.experiment.batch_size)
        rows = [self.feed.rows(step + i, part) for i in range(self.experiment.steps_per_call)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    def batches(self, split: str, poll: Callable[[], None]) -> Iterator[dict]:
        """Every example of a split once, in order, as device batches. `poll` is called before each batch."""
        feed, resident, assemble = self._eval_feed(split)
        placed, part = sharding.rows(self.mesh), sharding.local_rows(self.mesh, self.experiment.eval_batch_size)
        for i in range(feed.num_batches):
            poll()
            yield assemble(resident, sharding.place(feed.rows(i, part), placed))

    @functools.cache  # noqa: B019 - a feeder lives as long as its process
    def _eval_feed(self, split: str) -> tuple[Any, dict, Callable]:
        feed = self.dataset.eval_feed(split, self.experiment.eval_batch_size)
        resident = sharding.place(feed.resident, sharding.replicated(self.mesh))
        return feed, resident, jax.jit(feed.assemble, out_shardings=sharding.rows(self.mesh))
