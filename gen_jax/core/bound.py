"""Bounds on -log p(x) of a diffusion, in nats an example: the variational bound and the likelihood along the ODE.

The variational bound has three terms: prior, reconstruction and diffusion (Kingma et al. 2021, eq. 11).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gen_jax.core import noise, ops, solvers
from gen_jax.core.denoising import uniform_times
from gen_jax.core.noise import Examples, Schedule, prior_scale
from gen_jax.core.solvers import Denoiser

LEVEL_ROWS = 16  # rows at a time, of which [rows, ..., levels] is in memory


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
    schedule = dataclasses.replace(schedule, curve="log_linear")
    t = uniform_times(schedule, time_rng, len(x))
    log_snr, eps = schedule.log_snr(t), ops.normal(noise_rng, x.shape)
    found = denoiser(noise.diffuse(schedule, x, log_snr, eps), log_snr)
    z = noise.diffuse(schedule, x, jnp.full(len(x), schedule.lambda_max), ops.normal(first_rng, x.shape))

    def row(pair):
        return level_log_prob(schedule, pair[0][None], pair[1][None], levels)[0]

    prior, rec = prior_kl(schedule, x), -jax.lax.map(row, (x, z), batch_size=LEVEL_ROWS)
    diffusion = diffusion_loss(eps, found.eps, schedule.slope(t))
    return {"elbo": -(prior + rec + diffusion), "prior_kl": prior, "rec": rec, "diffusion": diffusion}


def ode_log_prob(
    schedule: Schedule, denoiser: Denoiser, x: Examples, probes: solvers.Probes | None, steps: int
) -> Float[Array, " B"]:
    """log p(x) of continuous x along the ODE (Song et al. 2021, eq. 39), with x in place of z / alpha at time 0.

    Args:
      probes: [P, B, ...] random signs for the trace, or None for the exact trace (`solvers.ode_step`).
    """
    grid = noise.uniform_times(schedule, steps)[::-1]
    alpha = schedule.scales(jnp.float32(schedule.lambda_max))[0]

    def step(flow, i):
        return solvers.ode_step(denoiser, flow, schedule, grid[i], grid[i + 1], probes), None

    flow, _ = ops.scan(step, solvers.Flow(alpha * x, jnp.zeros(len(x))), jnp.arange(steps))
    return solvers.prior_log_prob(schedule, flow.z) + flow.log_det + x[0].size * jnp.log(alpha)


def prior_kl(schedule: Schedule, x: Examples) -> Float[Array, " B"]:
    """KL(q(z_1 | x) || p(z_1)), where p(z_1) is N(0, sigma^2), or N(0, 1) for a scaling with alpha^2 + sigma^2 = 1."""
    alpha, sigma = (scale for scale in schedule.scales(jnp.float32(schedule.lambda_min)))
    scale = prior_scale(schedule)
    terms = ((alpha * x) ** 2 + sigma**2) / scale**2 - 1 - 2 * jnp.log(sigma / scale)
    return 0.5 * _sum(terms)


def level_log_prob(schedule: Schedule, x: Examples, z: Examples, levels: int) -> Float[Array, " B"]:
    """log p(x | z_0) of x on a grid of `levels` values from -1 to 1: p is proportional to q(z_0 | x) (eq. 27)."""
    alpha, sigma = (scale[0] for scale in schedule.scales(jnp.full(1, schedule.lambda_max)))
    grid = jnp.linspace(-1.0, 1.0, levels)
    logits = -0.5 * ((z[..., None] - alpha * grid) / sigma) ** 2  # [B, ..., L]
    chosen = -0.5 * ((z - alpha * x) / sigma) ** 2
    return _sum(chosen - jax.nn.logsumexp(logits, -1))


def density_log_prob(schedule: Schedule, x: Examples, z: Examples) -> Float[Array, " B"]:
    """log p(x | z_0) of continuous x: N(z_0 / alpha, (sigma / alpha)^2)."""
    alpha, sigma = (scale[0] for scale in schedule.scales(jnp.full(1, schedule.lambda_max)))
    return _sum(-0.5 * ((z - alpha * x) / sigma) ** 2 - jnp.log(sigma / alpha) - 0.5 * math.log(2 * math.pi))


def diffusion_loss(eps: Examples, found: Examples, slope: Float[Array, " B"]) -> Float[Array, " B"]:
    """-lambda'(t) / 2 |eps - found|^2 at a uniform t (eq. 17): its mean over t is the diffusion term."""
    return -slope / 2 * _sum((eps - found) ** 2)


def _sum(terms: Examples) -> Float[Array, " B"]:
    return terms.reshape(len(terms), -1).sum(1)
