"""Improved precision and recall (Kynkaanniemi et al. 2019), and nearest neighbours, in blocks of rows."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

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


def covered(
    x: Float[np.ndarray, "N F"], y: Float[np.ndarray, "M F"], y_radii: Float[np.ndarray, " M"]
) -> Bool[np.ndarray, " N"]:
    """Whether each x lies in the ball of any y."""
    return np.concatenate([(block <= y_radii).any(1) for block in _squared_distances(x, y)])


def precision_recall(
    fake: Float[np.ndarray, "N F"],
    real: Float[np.ndarray, "M F"],
    k: int = 3,
    real_radii: Float[np.ndarray, " M"] | None = None,
) -> tuple[float, float]:
    """Share of fakes in the union of the real points' balls, and the other way round. Needs more than k points each.

    real_radii: `radii(real, k)`, where they are known.
    """
    precision = covered(fake, real, radii(real, k) if real_radii is None else real_radii).mean()
    return float(precision), float(covered(real, fake, radii(fake, k)).mean())


def nearest(
    x: Shaped[np.ndarray, "N D"], y: Shaped[np.ndarray, "M D"]
) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """The euclidean distance of each x to its nearest y, and which that is."""
    found = [(np.sqrt(block.min(1)), block.argmin(1)) for block in _squared_distances(x, y)]
    distance, index = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return distance, index
