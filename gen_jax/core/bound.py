"""Bounds on -log p(x) of a diffusion, in nats an example: the variational bound and the likelihood along the ODE.

The variational bound has three terms: prior, reconstruction and diffusion (Kingma et al. 2021, eq. 11).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gen_jax.core import noise, ops, solvers
from gen_jax.core.denoising import uniform_times
from gen_jax.core.noise import Examples, Schedule, prior_scale
from gen_jax.core.solvers import Denoiser


def terms(
    schedule: Schedule, denoiser: Denoiser, x: Examples, rng: Key[Array, "*keys"], levels: int
) -> dict[str, Float[Array, " B"]]:
    """`elbo` and minus its three terms, the diffusion term at one lambda for each row.

    The bound is the same for every curve of lambda (eq. 18). A uniform lambda keeps its variance low.

    Args:
      x: on a grid of `levels` values from -1 to 1, whose probability is bounded.
      rng: one key, or one a row.
    """
    time_rng, noise_rng, first_rng = ops.split(rng, 3)
    schedule = schedule.even()
    t = uniform_times(schedule, time_rng, len(x))
    log_snr, eps = schedule.log_snr(t), ops.normal(noise_rng, x.shape)
    found = denoiser(noise.diffuse(schedule, x, log_snr, eps), log_snr)
    prior, rec = prior_kl(schedule, x), -level_log_prob(schedule, x, ops.normal(first_rng, x.shape), levels)
    diffusion = diffusion_loss(eps, found.eps, schedule.slope(t))
    return {"elbo": -(prior + rec + diffusion), "prior_kl": prior, "rec": rec, "diffusion": diffusion}


def ends_loss(schedule: Schedule, x: Examples, rng: Key[Array, "*keys"], levels: int) -> Float[Array, " B"]:
    """The terms of prior and reconstruction, which depend on the end points of the schedule alone."""
    return prior_kl(schedule, x) - level_log_prob(schedule, x, ops.normal(rng, x.shape), levels)


def ode_log_prob(
    schedule: Schedule, denoiser: Denoiser, x: Examples, probes: solvers.Probes | None, steps: int
) -> Float[Array, " B"]:
    """log p(x) of continuous x along the ODE (Song et al. 2021, eq. 39), with x in place of z / alpha at time 0.

    Args:
      probes: [P, B, ...] random signs for the trace, or None for the exact trace (`solvers.ode_step`).
    """
    grid = noise.even_log_snrs(schedule, steps)[::-1]  # even in t, the first step would skip the finest scales of data
    alpha = schedule.scales(jnp.float32(schedule.lambda_max))[0]

    def step(flow, i):
        return solvers.ode_step(denoiser, flow, schedule, grid[i], grid[i + 1], probes), None

    flow, _ = jax.lax.scan(step, solvers.Flow(alpha * x, jnp.zeros(len(x))), jnp.arange(steps))
    return solvers.prior_log_prob(schedule, flow.z) + flow.log_det + x[0].size * jnp.log(alpha)


def dequantized_log_prob(
    schedule: Schedule,
    denoiser: Denoiser,
    x: Examples,
    keys: Key[Array, " B"],
    num_samples: int,
    levels: int,
    steps: int,
) -> Float[Array, " B"]:
    """A lower bound on log P(x) of x on a grid of `levels` values from -1 to 1, nats.

    The mean over uniform noise of a level's width of the log-density along the ODE, with one vector of random signs
    each (Song et al. 2021, section 4.3). Not the log of a mean, which the noise of the trace would bias upwards.
    """
    spacing = 2 / (levels - 1)

    def one(i):
        level_rng, sign_rng = ops.split(ops.fold_in(keys, i), 2)
        signs = jnp.where(ops.uniform(sign_rng, x.shape) < 0.5, -1.0, 1.0)
        noisy = x + spacing * (ops.uniform(level_rng, x.shape) - 0.5)
        return ode_log_prob(schedule, denoiser, noisy, signs[None], steps)

    return jax.lax.map(one, jnp.arange(num_samples)).mean(0) + x[0].size * math.log(spacing)


def prior_kl(schedule: Schedule, x: Examples) -> Float[Array, " B"]:
    """KL(q(z_1 | x) || p(z_1)), where p(z_1) is N(0, sigma^2), or N(0, 1) for a scaling with alpha^2 + sigma^2 = 1."""
    alpha, sigma = schedule.scales(jnp.float32(schedule.lambda_min))
    scale = prior_scale(schedule)
    return 0.5 * _sum(((alpha * x) ** 2 + sigma**2) / scale**2 - 1 - 2 * jnp.log(sigma / scale))


def level_log_prob(schedule: Schedule, x: Examples, eps: Examples, levels: int) -> Float[Array, " B"]:
    """log p(x | z_0) of x on a grid of `levels` values from -1 to 1: p is proportional to q(z_0 | x) (eq. 27).

    z_0 = alpha x + sigma eps at `lambda_max`. One level at a time: [B, ..., levels] is never materialized.
    """
    ratio, spacing = jnp.exp(schedule.lambda_max / 2), 2 / (levels - 1)  # alpha / sigma; between levels

    def add(level, total):
        away = ratio * (x - (level * spacing - 1)) + eps  # of z_0 from the level, in units of sigma
        return total + jnp.exp(0.5 * (eps**2 - away**2))

    return -_sum(jnp.log(jax.lax.fori_loop(0, levels, add, jnp.zeros_like(x))))


def density_log_prob(schedule: Schedule, eps: Examples) -> Float[Array, " B"]:
    """log p(x | z_0) of continuous x, N(x; z_0 / alpha, (sigma / alpha)^2), where z_0 = alpha x + sigma eps."""
    return _sum(-0.5 * eps**2 + schedule.lambda_max / 2 - 0.5 * math.log(2 * math.pi))


def diffusion_loss(eps: Examples, found: Examples, slope: Float[Array, " B"]) -> Float[Array, " B"]:
    """-lambda'(t) / 2 |eps - found|^2 at a uniform t (eq. 17): its mean over t is the diffusion term."""
    return -slope / 2 * _sum((eps - found) ** 2)


def _sum(terms: Examples) -> Float[Array, " B"]:
    return terms.reshape(len(terms), -1).sum(1)
