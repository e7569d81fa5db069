"""Samplers of a diffusion: steps along a grid of lambda from noise to data, and the likelihood along its ODE.

A solver is a function of one step, so that a loop over the steps compiles one of them. It sees the network as a
`Denoiser`; guidance, in-painting and thresholding wrap that.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gen_jax.core.denoising import Denoised
from gen_jax.core.noise import SCALINGS, Examples, Schedule, prior_scale

Lambda = Float[Array, ""]  # the same for all rows
Probes = Float[Array, "P B ..."]
Denoiser = Callable[[Examples, Float[Array, "*rows"]], Denoised]  # (z, lambda [] or [B])


class Walk(NamedTuple):
    """A sampler's state. z: noisy examples. x: the last estimate of the clean ones, zeros before the first step."""

    z: Examples
    x: Examples


class Step(NamedTuple):
    """One step from lambda `here` to `there`.

    before: the lambda that the step before this one began at.
    noise: standard normal, for solvers that add some.
    first, last: whether it is the first or the last of its grid.
    """

    schedule: Schedule
    before: Lambda
    here: Lambda
    there: Lambda
    noise: Examples
    first: Bool[Array, ""]
    last: Bool[Array, ""]


def step_of(schedule: Schedule, grid: Float[Array, " N"], i: Int[Array, ""], noise: Examples) -> Step:
    """Step i of a grid of lambda (`noise.GRIDS`)."""
    first, last = i == 0, i == len(grid) - 2
    return Step(schedule, grid[jnp.maximum(i - 1, 0)], grid[i], grid[i + 1], noise, first, last)


def start(schedule: Schedule, noise: Examples) -> Walk:
    """At lambda_min, from standard normal noise."""
    return Walk(prior_scale(schedule) * noise, jnp.zeros_like(noise))


def ddim(denoiser: Denoiser, walk: Walk, step: Step, eta: float = 0.0) -> Walk:
    """Song et al. 2021 (DDIM), eq. 12. With `eta` 1 the ancestral sampler of Ho et al. 2020, algorithm 2."""
    x, eps = denoiser(walk.z, step.here)
    alpha, sigma = step.schedule.scales(step.there)
    fresh = eta * sigma * jnp.sqrt(jnp.maximum(0.0, -jnp.expm1(step.here - step.there)))  # towards noise none
    return Walk(alpha * x + jnp.sqrt(sigma**2 - fresh**2) * eps + fresh * step.noise, x)


def ancestral(denoiser: Denoiser, walk: Walk, step: Step) -> Walk:
    """Ho et al. 2020, algorithm 2: a draw from q(z_there | z_here, x) with the estimate of x."""
    return ddim(denoiser, walk, step, eta=1.0)


def dpm_solver(denoiser: Denoiser, walk: Walk, step: Step) -> Walk:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): second order, with the estimate of the step before.

    The first and the last step are of first order: before the first there is none, and the last may be so much wider
    than the one before it that an extrapolation would be far off.
    """
    x, _ = denoiser(walk.z, step.here)
    (_, sigma), (alpha, sigma_there) = (step.schedule.scales(log_snr) for log_snr in (step.here, step.there))
    width = (step.there - step.here) / 2
    last = jnp.where(step.first, 1.0, (step.here - step.before) / 2)
    ratio = jnp.where(step.first | step.last, 0.0, width / (2 * last))
    mixed = x + ratio * (x - walk.x)
    return Walk(sigma_there / sigma * walk.z - alpha * jnp.expm1(-width) * mixed, x)


def euler(denoiser: Denoiser, walk: Walk, step: Step) -> Walk:
    """The ODE in the scaling's position, first order."""
    ode = _Ode(denoiser, step.schedule)
    here, there = ode.position(step.here), ode.position(step.there)
    slope, x = ode.slope(walk.z, here)
    return Walk(walk.z + (there - here) * slope, x)


def heun(denoiser: Denoiser, walk: Walk, step: Step) -> Walk:
    """The ODE in the scaling's position, second order, two network calls (Karras et al. 2022, algorithm 1)."""
    ode = _Ode(denoiser, step.schedule)
    here, there = ode.position(step.here), ode.position(step.there)
    slope, x = ode.slope(walk.z, here)
    corrected, _ = ode.slope(walk.z + (there - here) * slope, there)
    return Walk(walk.z + (there - here) * (slope + corrected) / 2, x)


def travel(denoiser: Denoiser, schedule: Schedule, grid: Float[Array, " N"], z: Examples, solver: str) -> Examples:
    """z at the last lambda of a grid in either direction, one step of a solver an iteration, nothing added."""

    def step(i, walk):
        return SOLVERS[solver](denoiser, walk, step_of(schedule, grid, i, jnp.zeros_like(z)))

    return jax.lax.fori_loop(0, len(grid) - 1, step, Walk(z, jnp.zeros_like(z))).z


SOLVERS = {"ancestral": ancestral, "ddim": ddim, "euler": euler, "heun": heun, "dpm_solver": dpm_solver}


class _Ode(NamedTuple):
    """dz / d position = alpha' x + sigma' eps: the probability flow ODE (Song et al. 2021, eq. 13)."""

    denoiser: Denoiser
    schedule: Schedule

    def position(self, log_snr: Lambda) -> Float[Array, ""]:
        return SCALINGS[self.schedule.scaling].position(log_snr)

    def slope(self, z: Examples, position: Float[Array, ""]) -> tuple[Examples, Examples]:
        """dz / d position, and the estimate of x."""
        scaling = SCALINGS[self.schedule.scaling]
        x, eps = self.denoiser(z, scaling.log_snr(position))
        _, (alpha, sigma) = jax.jvp(scaling.scales, (position,), (jnp.ones_like(position),))
        return alpha * x + sigma * eps, x


# Likelihood -----------------------------------------------------------------------------------------------------


class Flow(NamedTuple):
    """z on its way from data to noise, and the log-determinant of dz / d(start) so far, [B]."""

    z: Examples
    log_det: Float[Array, " B"]


def ode_step(
    denoiser: Denoiser, flow: Flow, schedule: Schedule, here: Lambda, there: Lambda, probes: Probes | None
) -> Flow:
    """A step of Runge-Kutta 4 towards noise (here > there) for z and the log-determinant (Song et al. 2021, eq. 39).

    Args:
      probes: [P, B, ...] vectors of random signs for Hutchinson's estimate of the trace; None = the exact trace, with
        as many vjps as dimensions.
    """
    ode = _Ode(denoiser, schedule)
    start, end = ode.position(here), ode.position(there)
    width = end - start

    def slope(flow: Flow, position):
        z, pull, _ = jax.vjp(lambda z: ode.slope(z, position), flow.z, has_aux=True)
        return Flow(z, _trace(lambda v: pull(v)[0], flow.z, probes))

    def ahead(slope, share):
        return jax.tree.map(lambda value, change: value + share * width * change, flow, slope)

    middle = start + width / 2
    k1 = slope(flow, start)
    k2 = slope(ahead(k1, 0.5), middle)
    k3 = slope(ahead(k2, 0.5), middle)
    k4 = slope(ahead(k3, 1.0), end)
    return jax.tree.map(lambda value, a, b, c, d: value + width / 6 * (a + 2 * b + 2 * c + d), flow, k1, k2, k3, k4)


def _trace(pull: Callable[[Examples], Examples], z: Examples, probes: Probes | None) -> Float[Array, " B"]:
    """The trace of dz' / dz for each row, from products v -> v' dz' / dz."""
    flat = (len(z), z[0].size)
    if probes is not None:
        return jax.lax.map(lambda v: (v * pull(v)).reshape(flat).sum(1), probes).mean(0)

    def diagonal(i):
        unit = jnp.zeros(flat).at[:, i].set(1.0)
        return pull(unit.reshape(z.shape)).reshape(flat)[:, i]

    return jax.lax.map(diagonal, jnp.arange(flat[1])).sum(0)


def prior_log_prob(schedule: Schedule, z: Examples) -> Float[Array, " B"]:
    """log p(z_1), nats."""
    scale = prior_scale(schedule)
    flat = z.reshape(len(z), -1) / scale
    return -0.5 * (flat**2).sum(1) - flat.shape[1] * (0.5 * jnp.log(2 * jnp.pi) + jnp.log(scale))


if TYPE_CHECKING:
    SolverName = OdeSolverName = str
else:  # so that a name in the table is known to every config
    SolverName = Literal[tuple(SOLVERS)]
    OdeSolverName = Literal[tuple(name for name in SOLVERS if name != "ancestral")]  # those that add no noise
