"""What the processes of one run find out together. Every process calls each of these; alone, none asks another."""

from typing import Any

import jax
import numpy as np

from gen_jax.compat import multihost_utils

PyTree = Any


def is_primary() -> bool:
    """Whether this process writes the logs, the config and the manifests: process 0."""
    return jax.process_index() == 0


def agree(value: Any) -> Any:
    """Process 0's number, in every process."""
    if jax.process_count() == 1:
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def everywhere(found: bool) -> bool:
    """Whether every process found it: one answer in all of them."""
    if not jax.distributed.is_initialized():  # asks no backend, which data must not start
        return found
    return bool(multihost_utils.process_allgather(np.array(found)).all())


def gather(tree: PyTree) -> PyTree:
    """Device arrays as numpy arrays, whole ones on every process."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
