"""What a critic and a generator minimise: pure functions of logits, [B] each, and penalties on a critic's slope."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gen_jax import ops

Logits = Float[Array, " B"]
Critic = Callable[[Float[Array, "B *D"]], Float[Array, " B"]]  # each row by itself


class Loss(NamedTuple):
    """Both sides of one game, row by row: a pair of logits (of a real example, of a fake) to nats or plain numbers."""

    critic: Callable[[Logits, Logits], Logits]
    generator: Callable[[Logits, Logits], Logits]


def logistic_critic(real: Logits, fake: Logits) -> Logits:
    """-log D(x) - log(1 - D(G(z))) in nats; 2 log 2 at D = 1/2 (Goodfellow et al. 2014, eq. 1)."""
    return nn.softplus(-real) + nn.softplus(fake)


def saturating_generator(real: Logits, fake: Logits) -> Logits:
    """log(1 - D(G(z))) in nats (Goodfellow et al. 2014, eq. 1): its slope vanishes where the critic is sure."""
    return -nn.softplus(fake)


def non_saturating_generator(real: Logits, fake: Logits) -> Logits:
    """-log D(G(z)) in nats (Goodfellow et al. 2014, section 3)."""
    return nn.softplus(-fake)


def hinge_critic(real: Logits, fake: Logits) -> Logits:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim & Ye 2017, eq. 3; Miyato et al. 2018, eq. 16)."""
    return nn.relu(1 - real) + nn.relu(1 + fake)


def least_squares_critic(real: Logits, fake: Logits) -> Logits:
    """((D(x) - 1)^2 + D(G(z))^2) / 2 (Mao et al. 2017, eq. 9)."""
    return ((real - 1) ** 2 + fake**2) / 2


def least_squares_generator(real: Logits, fake: Logits) -> Logits:
    """(D(G(z)) - 1)^2 / 2 (Mao et al. 2017, eq. 9)."""
    return (fake - 1) ** 2 / 2


def wasserstein_critic(real: Logits, fake: Logits) -> Logits:
    """f(G(z)) - f(x): minus the integrand of Arjovsky et al. 2017, eq. 2, since we minimise."""
    return fake - real


def wasserstein_generator(real: Logits, fake: Logits) -> Logits:
    """-f(G(z)) (Arjovsky et al. 2017, algorithm 1; the hinge loss of Miyato et al. 2018, eq. 17, has the same)."""
    return -fake


def relativistic_critic(real: Logits, fake: Logits) -> Logits:
    """-log sigmoid(C(x) - C(G(z))) in nats, of pairs (Jolicoeur-Martineau 2018, eq. 4)."""
    return nn.softplus(fake - real)


def relativistic_generator(real: Logits, fake: Logits) -> Logits:
    """-log sigmoid(C(G(z)) - C(x)) in nats, of pairs (Jolicoeur-Martineau 2018, eq. 5)."""
    return nn.softplus(real - fake)


LOSSES = {
    "minimax": Loss(logistic_critic, saturating_generator),
    "non_saturating": Loss(logistic_critic, non_saturating_generator),
    "hinge": Loss(hinge_critic, wasserstein_generator),
    "least_squares": Loss(least_squares_critic, least_squares_generator),
    "wasserstein": Loss(wasserstein_critic, wasserstein_generator),
    "relativistic": Loss(relativistic_critic, relativistic_generator),
}


def _squared_slope(critic: Critic, x: Float[Array, "B *D"]) -> Logits:
    """|df/dx|^2 of each row."""
    slope = jax.grad(lambda x: critic(x).sum())(x)
    return (slope**2).sum(range(1, slope.ndim))


def gradient_penalty(
    critic: Critic, real: Float[Array, "B *D"], fake: Float[Array, "B *D"], rng: Key[Array, "*rows"]
) -> Logits:
    """(|df/dx| - 1)^2 at a uniform point between a real and a fake example (Gulrajani et al. 2017, eq. 3).

    `rng` is one key, or one a row.
    """
    mix = ops.uniform(rng, (len(real), *(1 for _ in real.shape[1:])))
    norm = jnp.sqrt(_squared_slope(critic, real + mix * (fake - real)) + 1e-12)  # the root has no gradient at 0
    return (norm - 1) ** 2


def r1_penalty(
    critic: Critic, real: Float[Array, "B *D"], fake: Float[Array, "B *D"], rng: Key[Array, "*rows"]
) -> Logits:
    """|df/dx|^2 / 2 at the real examples (Mescheder et al. 2018, eq. 9)."""
    return _squared_slope(critic, real) / 2


def r2_penalty(
    critic: Critic, real: Float[Array, "B *D"], fake: Float[Array, "B *D"], rng: Key[Array, "*rows"]
) -> Logits:
    """|df/dx|^2 / 2 at the fakes (Mescheder et al. 2018, eq. 10)."""
    return _squared_slope(critic, fake) / 2


PENALTIES = {"gradient": gradient_penalty, "r1": r1_penalty, "r2": r2_penalty}
