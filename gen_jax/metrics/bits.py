"""Units of likelihoods: nats to bits, per token, byte or dimension."""

import math


def bits(nats: float, count: float | int = 1) -> float:
    """`nats` in bits, shared over `count` tokens, bytes or dimensions."""
    return nats / (math.log(2) * count)


def perplexity(nats_per_token: float) -> float:
    """exp of the mean negative log-likelihood of a token; inf where that overflows."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf
