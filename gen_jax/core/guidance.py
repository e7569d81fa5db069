"""Changes to what a denoiser says, between the network and a solver: guidance, thresholds, in-painting."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from gen_jax.core.denoising import Denoised, of_x
from gen_jax.core.noise import Examples, Schedule, rows
from gen_jax.core.solvers import Lambda

Estimate = TypeVar("Estimate", Denoised, Array)  # of x and eps, of a velocity, or logits


def guided(conditional: Estimate, other: Estimate, scale: float, active: Array | bool = True) -> Estimate:
    """other + scale (conditional - other). Scale 1 is `conditional`, 0 is `other`.

    Classifier-free guidance (Ho & Salimans 2022) if `other` is unconditional. Autoguidance (Karras et al. 2024) if it
    is of a weaker model.

    Args:
      active: whether guidance applies at this lambda (Kynkaanniemi et al. 2024); otherwise the result is `conditional`.
    """
    scale_here = jnp.where(active, scale, 1.0)
    return jax.tree.map(lambda a, b: b + scale_here * (a - b), conditional, other)


def pairs(a: Shaped[Array, "B ..."], b: Shaped[Array, "B ..."]) -> Shaped[Array, "C ..."]:
    """Rows a_0, b_0, a_1, b_1, ...: one call for both, whose rows stay on their devices."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def halves(both: Estimate) -> tuple[Estimate, Estimate]:
    """Undoes `pairs`."""
    return jax.tree.map(lambda rows: rows[::2], both), jax.tree.map(lambda rows: rows[1::2], both)


def thresholded(found: Denoised, schedule: Schedule, z: Examples, log_snr: Lambda, percentile: float = 1.0) -> Denoised:
    """x clipped to [-1, 1], and the eps that fits it (Saharia et al. 2022, section 2.3).

    Args:
      percentile: below 1, dynamic: x is clipped to [-s, s] and divided by s, that share's largest |x|, at least 1.
    """
    limit = jnp.ones(len(z))
    if percentile < 1:
        limit = jnp.maximum(1.0, jnp.quantile(jnp.abs(found.x).reshape(len(z), -1), percentile, axis=1))
    limit = rows(limit, z)
    return of_x(schedule, jnp.clip(found.x, -limit, limit) / limit, z, log_snr)


def inpainted(
    found: Denoised, schedule: Schedule, z: Examples, log_snr: Lambda, known: Examples, mask: Float[Array, "..."]
) -> Denoised:
    """The estimate with `known` in place of x where `mask` is 1."""
    return of_x(schedule, mask * known + (1 - mask) * found.x, z, log_snr)
