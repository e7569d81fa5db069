"""Restricts what may be drawn: pure functions of logits [B, V]. `generate.process` applies them in order."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

ROUNDING = 1e-6  # of float32 probabilities, relative


def _finite(value: float) -> float:
    """A positive number within the range that float32 can divide by and multiply with."""
    return min(max(value, 1e-30), 1e30)


def penalise(logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: float) -> Float[Array, "B V"]:
    """The repetition penalty on the tokens that are `seen`; the result is finite."""
    penalty, limit = _finite(penalty), jnp.finfo(logits.dtype).max
    penalised = jnp.clip(jnp.where(logits > 0, logits / penalty, logits * penalty), -limit, limit)
    return jnp.where(seen, penalised, logits)


def tempered(logits: Float[Array, "*rows V"], temperature: float) -> Float[Array, "*rows V"]:
    """The logits divided by a temperature above 0, shifted so that the largest is 0. None becomes NaN or +inf."""
    return (logits - logits.max(axis=-1, keepdims=True)) / _finite(temperature)


def _down_to(logits: Float[Array, "B V"], last: Float[Array, "B 1"], token: Int[Array, "B 1"]) -> Float[Array, "B V"]:
    """-inf on all that ranks after `token`, whose logit is `last`; of equal logits the lower id ranks first."""
    kept = (logits > last) | ((logits == last) & (jnp.arange(logits.shape[-1]) <= token))
    return jnp.where(kept, logits, -jnp.inf)


def keep_top_k(logits: Float[Array, "B V"], k: int) -> Float[Array, "B V"]:
    """Sets all but the k largest logits to -inf. Of equal ones the lowest ids stay."""
    logits = jnp.where(logits == 0, 0.0, logits)  # top_k ranks -0 below 0
    ordered, tokens = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    return _down_to(logits, ordered[:, -1:], tokens[:, -1:])


def keep_top_p(logits: Float[Array, "B V"], p: float) -> Float[Array, "B V"]:
    """Sets all but the likeliest tokens whose probabilities add up to `p` to -inf, and keeps at least one.

    Of equal ones the lowest ids stay. A sum that misses `p` only by float32's rounding reaches it.
    """
    tokens = jnp.broadcast_to(jnp.arange(logits.shape[-1]), logits.shape)
    negated, tokens = jax.lax.sort((-logits, tokens), num_keys=1)  # stable
    probs = jax.nn.softmax(-negated, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    edge = jnp.maximum((before < p * (1 - ROUNDING)).sum(axis=-1, keepdims=True), 1) - 1
    last, token = (jnp.take_along_axis(x, edge, axis=-1) for x in (-negated, tokens))
    return _down_to(logits, last, token)


def keep_min_p(logits: Float[Array, "B V"], p: float) -> Float[Array, "B V"]:
    """Sets tokens less than `p` times as likely as the likeliest to -inf. The likeliest stays; p is in (0, 1]."""
    floor = logits.max(axis=-1, keepdims=True) + math.log(p) - ROUNDING
    return jnp.where(logits < floor, -jnp.inf, logits)


def restricted(logits: Float[Array, "B V"], temperature: float, top_k: int, top_p: float, min_p: float) -> jax.Array:
    """The filters above in the order temperature, top-k, top-p, min-p; each reads what the one before it leaves.

    Args:
      temperature: at 0 the likeliest alone stays. The others as in `sampling.Drawn`, whose defaults filter nothing.
    """
    if temperature == 0:
        return keep_top_k(logits, 1)
    logits = tempered(logits, temperature)
    if top_k:
        logits = keep_top_k(logits, top_k)
    if top_p < 1:
        logits = keep_top_p(logits, top_p)
    if min_p:
        logits = keep_min_p(logits, min_p)
    return logits
