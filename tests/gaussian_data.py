"""Data whose best denoiser is known: a Gaussian with independent coordinates, and a mixture of Gaussians."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from gen_jax.core import denoising, noise, solvers

MEAN, STD = jnp.array([0.5, -1.0]), jnp.array([0.7, 1.3])


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Equally likely Gaussians at `centres` [K, D] with standard deviations `std` [D]."""

    centres: jax.Array
    std: jax.Array

    def denoiser(self, schedule):
        """E[x | z] in closed form."""

        def denoise(z, log_snr):
            alpha, sigma = (scale[..., None] for scale in schedule.scales(log_snr))  # [1] or [B, 1, 1]
            spread = alpha**2 * self.std**2 + sigma**2  # [..., D], of z around a centre
            away = z[:, None] - alpha * self.centres  # [B, K, D]
            weights = jax.nn.softmax(-0.5 * (away**2 / spread).sum(-1), axis=1)
            x = self.centres + alpha * self.std**2 / spread * away
            return denoising.of_x(schedule, (weights[..., None] * x).sum(1), z, log_snr)

        return denoise

    def log_prob(self, schedule, z, log_snr):
        """log p(z) at this lambda, nats [B]."""
        alpha, sigma = schedule.scales(jnp.float32(log_snr))
        spread = alpha**2 * self.std**2 + sigma**2
        away = z[:, None] - alpha * self.centres
        parts = -0.5 * (away**2 / spread + jnp.log(2 * math.pi * spread)).sum(-1)
        return jax.nn.logsumexp(parts, axis=1) - math.log(len(self.centres))

    def draw(self, rng, n):
        which, normal = jax.random.split(rng)
        centres = self.centres[jax.random.randint(which, (n,), 0, len(self.centres))]
        return centres + self.std * jax.random.normal(normal, centres.shape)


GAUSSIAN = Mixture(MEAN[None], STD)


def sampled(data, schedule, solver, grid, normal, rng=None):
    """The samples of a solver on `grid` [N + 1] with the closed-form denoiser, from standard normal noise."""

    def step(walk, i):
        fresh = jnp.zeros_like(normal) if rng is None else jax.random.normal(jax.random.fold_in(rng, i), normal.shape)
        where = solvers.step_of(schedule, grid, i, fresh)
        return solvers.SOLVERS[solver](data.denoiser(schedule), walk, where), None

    scan = jax.jit(lambda walk: jax.lax.scan(step, walk, jnp.arange(len(grid) - 1))[0])
    return scan(solvers.start(schedule, normal)).z


def average_velocity(z, t, r, mean: Any = MEAN, std: Any = STD):
    """Of the Gaussian's flow from z at t to r, per coordinate: (z - mean_t) / std_t stays on the way."""
    t, r = (jnp.reshape(time, (-1, *(1,) * (z.ndim - 1))) for time in (t, r))
    spreads = [jnp.sqrt((1 - time) ** 2 * std**2 + time**2) for time in (t, r)]
    slope = ((t + r) * (1 + std**2) - 2 * std**2) / sum(spreads)  # (std_t - std_r) / (t - r), also at r = t
    return -mean + (z - (1 - t) * mean) / spreads[0] * slope


SCHEDULES = {
    "vp": noise.Schedule("cosine", "vp", 10.0, -10.0),
    "ve": noise.Schedule("log_linear", "ve", 8.0, -8.0),
    "flow": noise.Schedule("flow", "flow", 10.0, -10.0),
}
