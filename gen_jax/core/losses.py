"""Log-probabilities and divergences in closed form: pure functions, in nats.

`event` is the number of trailing axes that make up one example; those are summed, never averaged, so that a
reconstruction and a divergence of the same example add up to a bound on its log-likelihood.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gen_jax.core import ops
from gen_jax.core.state import Mean

LOG_2PI = math.log(2 * math.pi)


def _per_example(values: jax.Array, event: int) -> jax.Array:
    # a product with ones: XLA's CPU backend fuses a sum with all that leads to it into a loop ten times slower
    flat = values.reshape(*values.shape[: values.ndim - event], -1)
    return jnp.dot(flat, jnp.ones(flat.shape[-1], flat.dtype), precision="highest")


def bernoulli_log_prob(logits: Float[Array, "..."], x: Float[Array, "..."], event: int = 3) -> Float[Array, "..."]:
    """log p(x) of independent bits, from logits; `x` in [0, 1] broadcasts against `logits`.

    For x strictly between 0 and 1 it is minus the cross-entropy to Bernoulli(x): not a normalised likelihood.
    """
    return _per_example(x * logits - jax.nn.softplus(logits), event)


def gaussian_log_prob(
    mean: Float[Array, "..."], log_scale: Float[Array, "..."], x: Float[Array, "..."], event: int = 3
) -> Float[Array, "..."]:
    """log-density of N(mean, exp(log_scale)^2), independent over elements; all three broadcast."""
    z = (x - mean) * jnp.exp(-log_scale)
    return _per_example(-0.5 * (z**2 + LOG_2PI) - log_scale, event)


def min_log_scale(levels: int) -> float:
    """The smallest log-scale of a logistic component on [-1, 1]: an eighth of a level."""
    return -7.0 - math.log((levels - 1) / 255)


def logistic_mixture_log_prob(
    logits: Float[Array, "... K"],
    means: Float[Array, "... K"],
    log_scales: Float[Array, "... K"],
    x: Float[Array, "..."],
    event: int = 3,
    levels: int = 256,
) -> Float[Array, "..."]:
    """log-probability of integers under a discretised mixture of logistics; it sums to 1 over all `levels` of them.

    PixelCNN++ (Salimans et al. 2017), eq. 2, with every channel independent given the parameters. The mass of a bin is
    written as sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which needs no special case for narrow or distant components.

    Args:
      logits, means, log_scales: K components for each element; means in [-1, 1] are inside the range of x.
      x: on the grid of `levels` values -1, -1 + 2/(levels - 1), ..., 1; broadcasts against the parameters without their
        last axis.
      event: trailing axes of `x` that are summed.
      levels: 256 of a pixel, 65,536 of 16-bit sound. Components are at least an eighth of a level wide.
    """
    half = 1 / (levels - 1)  # of a bin
    log_scales = jnp.maximum(log_scales, min_log_scale(levels))
    centred, inverse = x[..., None] - means, jnp.exp(-log_scales)
    upper, lower = (centred + half) * inverse, (centred - half) * inverse  # a, b
    bottom, top = x[..., None] < -1 + half, x[..., None] > 1 - half  # the outer bins reach to infinity
    log_mass = jnp.where(top, 0, jax.nn.log_sigmoid(upper)) + jnp.where(bottom, 0, jax.nn.log_sigmoid(-lower))
    log_mass += jnp.where(bottom | top, 0, jnp.log(-jnp.expm1(-2 * half * inverse)))
    return _per_example(jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_mass, axis=-1), event)


def kl_to_standard_normal(mean: Float[Array, "*shape"], log_var: Float[Array, "*#shape"]) -> Float[Array, "*shape"]:
    """KL(N(mean, exp(log_var)) || N(0, 1)) of each dimension, nats. Kingma & Welling 2014, appendix B."""
    return 0.5 * (mean**2 + jnp.exp(log_var) - 1 - log_var)


def free_bits(kl: Float[Array, "*batch D"], floor: float) -> Float[Array, "*batch"]:
    """The sum over dimensions of max(kl, floor): a dimension below `floor` nats gets no gradient.

    Kingma et al. 2016, eq. 15, with the maximum taken for each example, so it does not depend on the batch.
    """
    return jnp.maximum(kl, floor).sum(-1)


def cross_entropy(logits: Float[Array, "*batch V"], labels: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """-log softmax(logits)[label], nats; takes logits, never probabilities."""
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def next_token(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], mask: Float[Array, "B T"] | None = None
) -> dict[str, Mean]:
    """Mean `loss`, nats a token, and `accuracy` of the likeliest token, over the tokens whose `mask` is 1: [B]."""
    counts = jnp.ones(targets.shape) if mask is None else mask
    weight = counts.sum(axis=1)
    nats = (cross_entropy(logits, targets) * counts).sum(axis=1)
    right = ((logits.argmax(axis=-1) == targets) * counts).sum(axis=1)
    return {"loss": Mean(nats, weight), "accuracy": Mean(right, weight)}


def next_token_in_parts(
    logits_of: Callable[[jax.Array], Any],
    x: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    mask: Float[Array, "B T"] | None,
    parts: int,
) -> dict[str, Mean]:
    """`next_token` of `logits_of(x)`, computed in this many chunks of positions. `parts` divides T.

    With more than one, the backward pass recomputes the logits of a chunk [B, T / parts, V], so the [B, T, V] logits
    are never materialized.
    """

    def cut(x):
        return x.reshape(len(x), parts, -1, *x.shape[2:]).swapaxes(0, 1)

    def part(_, xs):
        x, targets, mask = xs
        return None, next_token(logits_of(x), targets, mask)

    counts = jnp.ones(targets.shape) if mask is None else mask
    _, means = ops.scan(jax.checkpoint(part) if parts > 1 else part, None, jax.tree.map(cut, (x, targets, counts)))
    return jax.tree.map(lambda x: x.sum(axis=0), means)
