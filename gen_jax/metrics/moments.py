"""Sums, means and variances over a whole split, in float64 on the host."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int, Shaped


def exact_sum(values: Shaped[np.ndarray, "..."]) -> float:
    """The sum rounded once, so that it does not depend on the order of the values or on how they were batched."""
    values = np.asarray(values, np.float64).ravel()
    return math.fsum(values) if np.isfinite(values).all() else float(values.sum())


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and variance of rows that arrive in batches (Chan, Golub and LeVeque 1979, eq. 2.1)."""

    count: int = 0
    mean: Float[np.ndarray, " D"] | float = 0.0
    squares: Float[np.ndarray, " D"] | float = 0.0  # sum of squared distances from the mean

    def update(self, rows: Shaped[np.ndarray, "B D"]) -> "Moments":
        """With these rows counted too."""
        if len(rows) == 0:
            return self
        rows = np.asarray(rows, np.float64)
        count = self.count + len(rows)
        mean = rows.mean(0)
        gap = mean - self.mean
        squares = self.squares + ((rows - mean) ** 2).sum(0) + gap**2 * (self.count * len(rows) / count)
        return Moments(count, self.mean + gap * (len(rows) / count), squares)

    @property
    def variance(self) -> Float[np.ndarray, " D"] | float:
        """[D] float64, divided by the count."""
        return self.squares / max(self.count, 1)


def most_varied(moments: Moments, n: int) -> Int[np.ndarray, " n"]:
    """The `n` dimensions of largest variance, largest first; ties go to the lower index."""
    return np.argsort(-np.atleast_1d(moments.variance), kind="stable")[:n]
