"""Kernel distance of two sets of features (Binkowski et al. 2018)."""

import numpy as np
from jaxtyping import Float


def mmd2(x: Float[np.ndarray, "N F"], y: Float[np.ndarray, "M F"]) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / F + 1)^3 (Gretton et al. 2012, eq. 3).

    Its mean is 0 where both sets have one distribution, so it can be negative.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def kernel(a, b):
        inner = a @ b.T / a.shape[1] + 1
        return inner * inner * inner

    def within(a):
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def kid(
    features: Float[np.ndarray, "N F"],
    others: Float[np.ndarray, "M F"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> float:
    """The mean of `mmd2` over random subsets of both, at most as large as the smaller set.

    The draws are torch-fidelity's, seed and generator, so that equal features give equal numbers.
    """
    size, rng = min(subset_size, len(features), len(others)), np.random.RandomState(seed)
    pairs = [[x[rng.choice(len(x), size, replace=False)] for x in (features, others)] for _ in range(subsets)]
    return float(np.mean([mmd2(*pair) for pair in pairs]))
