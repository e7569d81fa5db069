"""Inception Score (Salimans et al. 2016)."""

import numpy as np
from jaxtyping import Float


def inception_score(logits: Float[np.ndarray, "N K"], splits: int = 10) -> float:
    """exp of the mean KL(p(y | x) || p(y)), averaged over `splits` runs of rows: from 1 to K classes.

    Rows are taken as they come: they must be in no order, or in turn by class.
    """
    log_p = np.asarray(logits, np.float64) - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    scores = []
    for part in np.array_split(log_p, min(splits, len(log_p))):
        marginal = np.exp(part).mean(0)
        log_marginal = np.log(np.maximum(marginal, np.finfo(np.float64).tiny))
        scores.append(np.exp((np.exp(part) * (part - log_marginal)).sum(1).mean()))
    return float(np.mean(scores))
