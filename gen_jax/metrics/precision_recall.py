"""Improved precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), neighbours."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

BLOCK = 1000  # rows: a block's distances to 60,000 others take 480 MB


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """[block, M] of each block of rows of x, float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    norms = (y**2).sum(1)
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        found = part @ y.T
        found *= -2
        found += norms
        found += (part**2).sum(1, keepdims=True)
        yield np.maximum(found, 0, out=found)


def radii(x: Float[np.ndarray, "N F"], k: int = 3) -> Float[np.ndarray, " N"]:
    """Each point's squared distance to its k-th nearest other point."""
    return np.concatenate([np.partition(block, k, axis=1)[:, k] for block in _squared_distances(x, x)])


class Shares(NamedTuple):
    """How two sets of points overlap; a ball reaches from a point to its k-th nearest other of its set.

    Attributes:
      precision: share of the fakes in the ball of any real point.
      recall: share of the real points in the ball of any fake.
      density: real balls that a fake lies in, over k, in the mean over fakes; above 1 where fakes crowd.
      coverage: share of the real points with a fake in their ball.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(
    fake: Float[np.ndarray, "N F"],
    real: Float[np.ndarray, "M F"],
    k: int = 3,
    real_radii: Float[np.ndarray, " M"] | None = None,
) -> Shares:
    """Needs more than k points each.

    Args:
      real_radii: `radii(real, k)`, where they are known.
    """
    reach, hits, covered = radii(real, k) if real_radii is None else real_radii, [], np.zeros(len(real), bool)
    for block in _squared_distances(fake, real):
        inside = block <= reach
        hits.append(inside.sum(1))
        covered |= inside.any(0)
    around, reach = np.concatenate(hits), radii(fake, k)
    recalled = np.concatenate([(block <= reach).any(1) for block in _squared_distances(real, fake)])
    shares = (around > 0).mean(), recalled.mean(), around.mean() / k, covered.mean()
    return Shares(*map(float, shares))


def nearest(
    x: Shaped[np.ndarray, "N D"], y: Shaped[np.ndarray, "M D"]
) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """The euclidean distance of each x to its nearest y, and which that is."""
    found = [(np.sqrt(block.min(1)), block.argmin(1)) for block in _squared_distances(x, y)]
    distance, index = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return distance, index
