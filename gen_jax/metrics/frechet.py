"""Frechet distance of two Gaussians (Dowson and Landau 1982); of features of images it is FID (Heusel et al. 2017)."""

import numpy as np
from jaxtyping import Float


def frechet_distance(
    mean: Float[np.ndarray, " F"],
    covariance: Float[np.ndarray, "F F"],
    other_mean: Float[np.ndarray, " F"],
    other_covariance: Float[np.ndarray, "F F"],
) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2), in float64.

    tr (C C')^1/2 = tr (R C' R)^1/2 with R = C^1/2, where both roots are of symmetric matrices, so that covariances
    without full rank are no trouble.
    """
    mean, covariance, other_mean, other_covariance = (
        np.asarray(x, np.float64) for x in (mean, covariance, other_mean, other_covariance)
    )
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)).sum()
    gap = mean - other_mean
    return float(gap @ gap + np.trace(covariance) + np.trace(other_covariance) - 2 * cross)


def fid(features: Float[np.ndarray, "N F"], others: Float[np.ndarray, "M F"]) -> float:
    """Of the Gaussians with the features' means and unbiased covariances; smaller sets are biased upwards."""
    moments = [(x.mean(0, np.float64), np.cov(x.astype(np.float64), rowvar=False)) for x in (features, others)]
    return frechet_distance(*moments[0], *moments[1])
