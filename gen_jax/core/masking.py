"""Absorbing-state (masked) discrete diffusion: tokens are hidden at random, and a network says what they were.

From time 0 (data) to 1 each token is hidden once. The mask rate is the share that is hidden by then. A denoiser gives
logits of every token from those that are seen. It has no output for the mask, and only hidden tokens are ever set: the
zero masking and carry-over of Sahoo et al. 2024, section 3.2.3. It does not read the time (Ou et al. 2024).
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from gen_jax.core import losses, ops

MASK = -1  # a hidden token that may be set; `jax.nn.one_hot` of it is 0
CLOSED = -2  # a hidden token that stays so
CHOICE = 4.5  # temperature of the noise on confidences, of the code of Chang et al. 2022

Tokens = Int[Array, "B T"]
Numbers = Float[Array, "..."]
Denoiser = Callable[[Tokens], Float[Array, "B T V"]]
Restrict = Callable[[Float[Array, "N V"]], Float[Array, "N V"]]  # of what is drawn, as `filters.restricted`

# The mask rate at t, from 0 to 1
RATES: dict[str, Callable[[Numbers], Numbers]] = {
    "linear": lambda t: t,
    "cosine": lambda t: jnp.sin(math.pi / 2 * t),  # Chang et al. 2022; slow at first when sampling
    "quadratic": lambda t: t**2,  # Shi et al. 2024, polynomial
}


def hide(counted: Bool[Array, "B T"], rate: Float[Array, " B"], rng: Key[Array, "*keys"]) -> Bool[Array, "B T"]:
    """Which tokens are hidden at a mask rate: floor(rate n) + 1 of the n that are `counted`, at most n, any of them.

    Args:
      rng: one key, or one a row.
    """
    n = counted.sum(1)
    number = jnp.minimum(jnp.floor(rate * n).astype(jnp.int32) + 1, n)
    order = jnp.argsort(jnp.where(counted, ops.uniform(rng, counted.shape), 2.0), axis=1)
    return jnp.argsort(order, axis=1) < number[:, None]


def mean_nats(logits: Float[Array, "B T V"], tokens: Tokens, hidden: Bool[Array, "B T"]) -> Float[Array, " B"]:
    """-log p of the hidden tokens, in the mean over them, nats; 0 where none is hidden."""
    nats = jnp.where(hidden, losses.cross_entropy(logits, tokens), 0.0)
    return nats.sum(1) / jnp.maximum(hidden.sum(1), 1)


def loss(
    name: str,
    denoiser: Denoiser,
    tokens: Tokens,
    counted: Bool[Array, "B T"],
    t: Float[Array, " B"],
    rng: Key[Array, "*keys"],
) -> Float[Array, " B"]:
    """Its mean over uniform t is the bound on -log p of the `counted` tokens, in nats a token.

    In continuous time the bound is the mean of rate' / rate times the nats of the hidden tokens (Sahoo et al. 2024,
    eq. 10; Shi et al. 2024). Where each is hidden by itself, the integral over t of rate' / rate and of the
    probability that a set of k is hidden is 1 / k over the number of such sets. So the bound is the sum over k of the
    mean nats of k hidden tokens (Hoogeboom et al. 2022), whatever the rate, and here k is drawn, not the set
    token by token: the mean is the same, and the variance is finite. The rate only says how often which k is trained.

    Args:
      name: of `RATES`.
      tokens: those that are not counted condition the others, or are CLOSED.
      rng: one key, or one a row.
    """
    rate, slope = jax.jvp(RATES[name], (t,), (jnp.ones_like(t),))
    hidden = hide(counted, rate, rng)
    return slope * mean_nats(denoiser(jnp.where(hidden, MASK, tokens)), tokens, hidden)


# Samplers: a function of one step, so that a loop compiles one of them -------------------------------------------


class Step(NamedTuple):
    """One step from the mask rate `here` down to `there`. keys: one a row."""

    here: Float[Array, ""]
    there: Float[Array, ""]
    keys: Key[Array, " B"]


def step_of(name: str, i: Int[Array, ""] | int, steps: int, keys: Key[Array, " B"]) -> Step:
    """Step i of `steps` that are equally spaced in time, from 1 to 0."""
    here, there = (RATES[name](jnp.float32(steps - number) / steps) for number in (i, i + 1))
    return Step(here, there, keys)


def gumbel(keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    """Gumbel noise [B, *shape] from two float32 numbers each.

    From one it ends at 16: unlikely tokens are drawn too rarely, like at a lower temperature (Zheng et al. 2024).
    """
    return jax.vmap(lambda key: jax.random.gumbel(key, shape, mode="high"))(keys)


def draw(logits: Float[Array, "B T V"], keys: Key[Array, " B"], restrict: Restrict) -> Tokens:
    """A token at each position, independently."""
    kept = restrict(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)
    return (kept + gumbel(keys, logits.shape[1:])).argmax(-1).astype(jnp.int32)


def ancestral(denoiser: Denoiser, tokens: Tokens, step: Step, restrict: Restrict) -> Tokens:
    """Draws from q(z_there | z_here, x) with the network's x: a hidden token stays so with probability there / here.

    Sahoo et al. 2024, eq. 6. Which tokens are set does not depend on the network, and what it says depends on the
    tokens alone, so it is only called if one is set: their cache. In N steps at a linear rate B rows
    of T tokens skip a call with probability (1 - 1 / N)^(B T): that saves time where N is larger than B T, for one text
    in many steps, and hardly any for a batch.
    """
    which_rng, token_rng = ops.split(step.keys, 2)
    leaves = ops.uniform(which_rng, tokens.shape) >= step.there / step.here
    shown = (tokens == MASK) & leaves
    found = ops.where_due(shown.any(), lambda: draw(denoiser(tokens), token_rng, restrict))
    return jnp.where(shown, found, tokens)


def confidence(denoiser: Denoiser, tokens: Tokens, step: Step, restrict: Restrict) -> Tokens:
    """Draws all hidden tokens and keeps the likeliest: MaskGIT (Chang et al. 2022, section 3.2), at least one a step.

    Noise on the log-probabilities falls with the mask rate. It prefers what the network is sure of, so few steps give
    good samples, whose distribution is not the model's.
    """
    hidden = tokens == MASK
    number = hidden.sum(1)
    stay = jnp.minimum(jnp.floor(number * (step.there / step.here)).astype(jnp.int32), number - 1)

    def kept() -> Tokens:
        token_rng, choice_rng = ops.split(step.keys, 2)
        logits = denoiser(tokens)
        found = draw(logits, token_rng, restrict)
        sure = -losses.cross_entropy(logits, found) + CHOICE * step.here * gumbel(choice_rng, tokens.shape[1:])
        rank = jnp.argsort(jnp.argsort(jnp.where(hidden, sure, jnp.inf), axis=1), axis=1)  # the least sure first
        return jnp.where(hidden & (rank >= stay[:, None]), found, tokens)

    return jnp.where(hidden.any(), ops.where_due(hidden.any(), kept), tokens)


SAMPLERS = {"ancestral": ancestral, "confidence": confidence}


if TYPE_CHECKING:
    RateName = str
    SamplerName = str
else:  # so that a name in the table is known to every config
    RateName = Literal[tuple(RATES)]
    SamplerName = Literal[tuple(SAMPLERS)]
