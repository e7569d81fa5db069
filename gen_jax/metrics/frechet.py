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


def moments(features: Float[np.ndarray, "N F"]) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, "F F"]]:
    """Mean and unbiased covariance, float64."""
    return features.mean(0, np.float64), np.cov(features.astype(np.float64), rowvar=False)


def fid(
    features: Float[np.ndarray, "N F"], mean: Float[np.ndarray, " F"], covariance: Float[np.ndarray, "F F"]
) -> float:
    """Of the Gaussian with the features' `moments` from one with those of other features; smaller sets are biased
    upwards."""
    return frechet_distance(*moments(features), mean, covariance)
