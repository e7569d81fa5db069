"""How evenly a codebook is used."""

import numpy as np
from jaxtyping import Int


def perplexity(counts: Int[np.ndarray, " K"]) -> float:
    """exp of the entropy of the codes' frequencies: K where all are used alike, 1 where one is used (and for none)."""
    used = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(used * np.log(used)).sum()))


def used(counts: Int[np.ndarray, " K"]) -> float:
    """The share of codes that occur at all."""
    return float((counts > 0).mean())
