"""Losses of critic and generator: pure functions of logits, [B] each; and penalties on a critic's gradient."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from gen_jax.core import ops
from gen_jax.settings import NonNegative, Settings

MIN_DIVERSITY = 1e-3  # a standard deviation of 3 % of the data's
Logits = Float[Array, " B"]
Critic = Callable[[Float[Array, "B *D"]], Float[Array, " B"]]  # each row by itself


class Loss(NamedTuple):
    """Both losses of a game, row by row: from the logits of a real example and of a fake.

    lengths: the logits are in the unit of the examples (a critic with slope 1). Otherwise they are log-odds, or near
    fixed targets.
    """

    critic: Callable[[Logits, Logits], Logits]
    generator: Callable[[Logits, Logits], Logits]
    lengths: bool = False


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
    "wasserstein": Loss(wasserstein_critic, wasserstein_generator, lengths=True),
    "relativistic": Loss(relativistic_critic, relativistic_generator),
}


def smoothed(loss: Loss, amount: float) -> Loss:
    """One-sided label smoothing of a logistic critic (Salimans et al. 2016, section 3.4): D(x) is to be 1 - amount."""

    def critic(real: Logits, fake: Logits) -> Logits:
        return loss.critic(real, fake) + amount * real  # -log(1 - D) is -log D plus the logit

    return loss._replace(critic=critic)


def _squared_slope(critic: Critic, x: Float[Array, "B *D"]) -> Logits:
    """|df/dx|^2 of each row."""
    slope = jax.grad(lambda x: critic(x).sum())(x)
    return (slope**2).sum(range(1, slope.ndim))


def gradient_penalty(
    critic: Critic, real: Float[Array, "B *D"], fake: Float[Array, "B *D"], rng: Key[Array, "*rows"]
) -> Logits:
    """(|df/dx| - 1)^2 at a uniform point between a real example and a fake (Gulrajani et al. 2017, eq. 3).

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


def clipped(tx: optax.GradientTransformation, limit: float) -> optax.GradientTransformation:
    """`tx` with its state, with updates that keep every parameter in [-limit, limit] (Arjovsky et al. 2017)."""

    def update(updates, state, params=None):
        updates, state = tx.update(updates, state, params)
        return jax.tree.map(lambda u, p: jnp.clip(p + u, -limit, limit) - p, updates, params), state

    return optax.GradientTransformation(tx.init, update)


PENALTIES = {"gradient": gradient_penalty, "r1": r1_penalty, "r2": r2_penalty}


def sure(loss: Loss, real: Logits, fake: Logits) -> Logits:
    """1 if the critic is saturated: its loss has less than 1 % of the slope that it has at logits of 0.

    For a logistic loss without pairs, D(x) + 1 - D(G(z)) is then over 1.99. For the hinge loss both margins are met. A
    Wasserstein critic never saturates.
    """

    def slope(real: Logits, fake: Logits) -> Logits:
        of_real, of_fake = jax.grad(lambda real, fake: loss.critic(real, fake).sum(), argnums=(0, 1))(real, fake)
        return jnp.abs(of_real) + jnp.abs(of_fake)

    undecided = jnp.zeros_like(real)
    return (slope(real, fake) <= 0.01 * slope(undecided, undecided)).astype(real.dtype)


def squared_distances(x: Float[Array, "B *D"]) -> Float[Array, " half"]:
    """Squared distances between neighbours (0, 1), (2, 3), ...: on average twice the variance, summed over dimensions.

    Neighbours are on one device if each device has an even number of rows.
    """
    pairs = x[: len(x) // 2 * 2].reshape(len(x) // 2, 2, -1)
    return ((pairs[:, 0] - pairs[:, 1]) ** 2).sum(-1)


def collapsed(confidence: Float[Array, ""], diversity: Float[Array, ""], seen: Float[Array, ""]) -> Float[Array, ""]:
    """1 if the critic claims more than it can know, or if the generator ignores the noise; else 0.

    Args:
      confidence: mean |C(x) - C(G(z))| of pairs, in half log-odds. For critics of slope 1, in distances of the pairs.
      diversity: mean squared distance between fakes, divided by that between real examples.
      seen: real examples so far. A critic that has separated n of them from as many fakes can claim odds of n + 1 to 1
        (Laplace's rule of succession). Higher odds come from a critic whose learning rate is too large.
    """
    return ((confidence > jnp.log1p(seen)) | (diversity < MIN_DIVERSITY)).astype(jnp.float32)


class Penalties(Settings):
    """Weights of the penalties of `gen_jax.core.adversarial`; 0 = off."""

    gradient: NonNegative = 0.0
    """On the critic's gradient between real and fake (WGAN-GP)."""
    r1: NonNegative = 0.0
    """On the critic's gradient at real examples."""
    r2: NonNegative = 0.0
    """On the critic's gradient at fakes."""

    @property
    def weights(self) -> tuple[tuple[str, float], ...]:
        """(name, weight) of the penalties that are on."""
        return tuple((name, weight) for name, weight in self if weight)
