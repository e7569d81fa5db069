"""Counts the modes of a known mixture that samples reach."""

import numpy as np
from jaxtyping import Float


def kl_from_uniform(share: Float[np.ndarray, " K"]) -> float:
    """KL in nats of the frequencies of K modes from uniform: from 0 to log K."""
    return float(np.sum(share * np.log(np.maximum(share, 1e-30) * len(share))))


def mode_counts(
    samples: Float[np.ndarray, "N D"],
    centres: Float[np.ndarray, "K D"],
    sigma: float,
    *,
    within: float = 3.0,
    min_share: float = 0.01,
) -> dict[str, float]:
    """How many modes the samples cover, and how many samples lie on one.

    Args:
      sigma: standard deviation of one mode, of each coordinate.
      within: a sample belongs to its nearest centre where it lies within that many sigma (euclidean) of it. Of true
        samples in two dimensions, 98.9 % lie within 3.
      min_share: of all samples; a mode with fewer is not covered.

    Returns:
      "modes": centres covered. "near_share": samples within reach of any centre, of all. "mode_kl": KL in nats of the
      near samples' mode frequencies from uniform (log K where all sit on one; infinite where none is near).

    A sample that is not finite is far from every mode.
    """
    distance = np.linalg.norm(samples[:, None] - centres[None], axis=-1)  # [N, K]
    distance = np.where(np.isfinite(distance), distance, np.inf)
    nearest = distance.argmin(axis=1)
    near = distance.min(axis=1) <= within * sigma
    counts = np.bincount(nearest[near], minlength=len(centres))
    share = counts / max(counts.sum(), 1)
    kl = kl_from_uniform(share) if near.any() else np.inf
    return {
        "modes": float((counts >= max(min_share * len(samples), 1)).sum()),
        "near_share": float(near.mean()),
        "mode_kl": float(kl),
    }
