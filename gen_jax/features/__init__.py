"""What images are compared by: a function of uint8 images, with weights that are named by their hash."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Weights:
    """variables: of the network, numpy or uncommitted arrays. digest: the first 12 digits of their sha256."""

    variables: PyTree
    digest: str


@dataclasses.dataclass(frozen=True)
class Features:
    """A feature function whose weights may not be there yet.

    Attributes:
      name, resize: of the function, and how it resizes images ("none" where it does not).
      apply: (variables, uint8 [B, H, W, C]) -> features float32 [B, F] and logits float32 [B, K]; pure.
      load: makes or reads the weights; called once, when they are needed first.
    """

    name: str
    resize: str
    apply: Callable[[PyTree, jax.Array], tuple[jax.Array, jax.Array]]
    load: Callable[[], Weights]

    def facts(self, weights: Weights) -> dict[str, object]:
        """What a number's tag says of them (`gen_jax.runs.metric_tags`)."""
        return {"features": f"{self.name}-{weights.digest}", "resize": self.resize}


def digest(tree: PyTree) -> str:
    """The sha256 of arrays, their paths, types and shapes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()
