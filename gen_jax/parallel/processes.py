"""Collective operations between the processes of a run. Every process must call each of these."""

from typing import Any

import jax
import numpy as np

from gen_jax.compat import multihost_utils

PyTree = Any


def is_primary() -> bool:
    """Whether this process is process 0, which writes the logs, the config and the manifests."""
    return jax.process_index() == 0


def agree(value: Any) -> Any:
    """Process 0's number, on every process."""
    if jax.process_count() == 1:
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def everywhere(found: bool) -> bool:
    """Whether the condition holds on every process."""
    if not jax.distributed.is_initialized():  # asks no backend, which data must not start
        return found
    return bool(multihost_utils.process_allgather(np.array(found)).all())


def gather(tree: PyTree) -> PyTree:
    """Device arrays as numpy arrays, each whole, on every process."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
