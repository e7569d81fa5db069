"""What a denoiser predicts, how its errors are weighted, and at which times it is trained.

All of it is relative to eps, the noise in z = alpha x + sigma eps: a target is a linear function of x and eps, a
weighting a factor of the squared error of eps.
"""

from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gen_jax.core import ops
from gen_jax.core.noise import Examples, Numbers, Schedule, rows

SIGMA_DATA = 0.5  # of data in [-1, 1], for EDM's preconditioning and weighting


class Denoised(NamedTuple):
    """Estimates of the clean example and of the noise in z."""

    x: Examples
    eps: Examples


def _edm(alpha: Numbers, sigma: Numbers) -> tuple[Numbers, Numbers]:
    """The output of a preconditioned network (Karras et al. 2022, table 1): (x - c_skip z / alpha) / c_out."""
    ratio = sigma / alpha
    total = jnp.sqrt(ratio**2 + SIGMA_DATA**2)
    return ratio / (SIGMA_DATA * total), -SIGMA_DATA / total


# y = on_x x + on_eps eps: (alpha, sigma) -> the two coefficients
TARGETS = {
    "x": lambda alpha, sigma: (jnp.ones_like(alpha), jnp.zeros_like(alpha)),
    "eps": lambda alpha, sigma: (jnp.zeros_like(alpha), jnp.ones_like(alpha)),
    "v": lambda alpha, sigma: (-sigma, alpha),  # Salimans & Ho 2022, section 4
    "u": lambda alpha, sigma: (-jnp.ones_like(alpha), jnp.ones_like(alpha)),  # the velocity of a straight path
    "score": lambda alpha, sigma: (jnp.zeros_like(alpha), -1 / sigma),
    "edm": _edm,
}


def target(
    name: str,
    schedule: Schedule,
    x: Examples,
    eps: Examples,
    log_snr: Float[Array, " B"],
) -> Examples:
    """What a network of this target should predict."""
    on_x, on_eps = (rows(part, x) for part in TARGETS[name](*schedule.scales(log_snr)))
    return on_x * x + on_eps * eps


def denoised(
    name: str,
    schedule: Schedule,
    z: Examples,
    y: Examples,
    log_snr: Float[Array, " B"],
) -> Denoised:
    """x and eps from the prediction y: the solution of z = alpha x + sigma eps, y = on_x x + on_eps eps."""
    scales = schedule.scales(log_snr)
    alpha, sigma = (rows(scale, z) for scale in scales)
    on_x, on_eps = (rows(part, z) for part in TARGETS[name](*scales))
    determinant = alpha * on_eps - sigma * on_x
    return Denoised((on_eps * z - sigma * y) / determinant, (alpha * y - on_x * z) / determinant)


def of_x(schedule: Schedule, x: Examples, z: Examples, log_snr: Numbers) -> Denoised:
    """x with the eps that z then has."""
    alpha, sigma = schedule.scales(log_snr)
    return Denoised(x, (z - alpha * x) / sigma)


def error_ratio(name: str, schedule: Schedule, log_snr: Numbers) -> Numbers:
    """The squared error of eps for each squared error of the target."""
    alpha, sigma = schedule.scales(log_snr)
    on_x, on_eps = TARGETS[name](alpha, sigma)
    return (alpha / (alpha * on_eps - sigma * on_x)) ** 2


# Weightings: factors of the squared error of eps, by lambda and d lambda / dt -----------------------------------

MIN_SNR = 5.0  # Hang et al. 2023, gamma
SIGMOID_SHIFT = 2.0


def _edm_weight(log_snr: Numbers, slope: Numbers) -> Numbers:
    """Karras et al. 2022, section 5: (s^2 + sigma_data^2) / (s sigma_data)^2 of x's error, s = sigma / alpha."""
    return (jnp.exp(-log_snr) + SIGMA_DATA**2) / SIGMA_DATA**2


WEIGHTINGS = {
    "simple": lambda log_snr, slope: jnp.ones_like(log_snr),  # Ho et al. 2020, eq. 14
    "x": lambda log_snr, slope: jnp.exp(-log_snr),  # the error of x
    "v": lambda log_snr, slope: 1 + jnp.exp(-log_snr),  # of v, where alpha^2 + sigma^2 = 1
    "u": lambda log_snr, slope: (1 + jnp.exp(-log_snr / 2)) ** 2,  # of u, where alpha + sigma = 1
    "snr": lambda log_snr, slope: jnp.maximum(jnp.exp(-log_snr), 1.0),  # truncated SNR (Salimans & Ho 2022, eq. 9)
    "min_snr": lambda log_snr, slope: jnp.minimum(1.0, MIN_SNR * jnp.exp(-log_snr)),  # Hang et al. 2023, eq. 7
    "sigmoid": lambda log_snr, slope: -slope / 2 * jax.nn.sigmoid(SIGMOID_SHIFT - log_snr),  # Kingma & Gao 2023
    "edm": _edm_weight,
    "elbo": lambda log_snr, slope: -slope / 2,  # Kingma et al. 2021, eq. 17
}


# Times of training ----------------------------------------------------------------------------------------------

Keys = Key[Array, "*keys"]


def uniform_times(schedule: Schedule, rng: Keys, n: int) -> Float[Array, " n"]:
    """Uniform in t, low-discrepancy (`ops.spread`)."""
    return ops.spread(rng, n)


def logit_normal_times(schedule: Schedule, rng: Keys, n: int) -> Float[Array, " n"]:
    """t = sigmoid(N(0, 1)) (Esser et al. 2024, eq. 19)."""
    return jax.nn.sigmoid(ops.normal(rng, (n,)))


def edm_times(schedule: Schedule, rng: Keys, n: int) -> Float[Array, " n"]:
    """log(sigma / alpha) ~ N(-1.2, 1.2^2) (Karras et al. 2022, table 1)."""
    return schedule.time(-2 * (1.2 * ops.normal(rng, (n,)) - 1.2))


TIMES = {"uniform": uniform_times, "logit_normal": logit_normal_times, "edm": edm_times}


if TYPE_CHECKING:
    TargetName = str
    WeightingName = str
    TimesName = str
else:  # so that a name in the table is known to every config
    TargetName = Literal[tuple(TARGETS)]
    WeightingName = Literal[tuple(WEIGHTINGS)]
    TimesName = Literal[tuple(TIMES)]
