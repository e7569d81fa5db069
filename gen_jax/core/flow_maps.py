"""Flow maps: a network that knows the average velocity over an interval of time, so that one call of it is a sample.

The path from data to noise is straight, z = (1 - t) x + t eps: the scaling "flow" of `noise.py`, whose position is t.
Its velocity is eps - x. The average velocity u(z, t, r) over r <= t is what leads from z at t to z at r. At r = t it is
the velocity of flow matching (Lipman et al. 2023) and of rectified flow (Liu et al. 2023), whose paths reflow
straightens.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gen_jax.core import noise, ops, solvers
from gen_jax.core.denoising import TIMES, Keys
from gen_jax.core.noise import SCALINGS, Examples, Schedule, rows
from gen_jax.core.solvers import Denoiser

Times = Float[Array, " B"]
AverageVelocity = Callable[[Examples, Times, Times], Examples]  # (z, t, r), r <= t

SCHEDULE = Schedule("flow", "flow", 18.0, -18.0)  # for the distributions of times
HALVINGS = 7  # of the time from 0 to 1: shortcuts are learned from 128 steps (Frans et al. 2025, section 4)
SMALLEST = 0.5 ** (HALVINGS - 1)  # interval of a shortcut
FLOOR = 1e-3  # of the squared error, in the adaptive weight


def path(x: Examples, eps: Examples, t: Times) -> Examples:
    """z = (1 - t) x + t eps."""
    alpha, sigma = SCALINGS["flow"].scales(rows(t, x))
    return alpha * x + sigma * eps


def jump(u: AverageVelocity, z: Examples, t: Times, r: Times) -> Examples:
    """z at r from z at t, with one network call: z - (t - r) u(z, t, r) (Geng et al. 2025, eq. 12)."""
    return z - rows(t - r, z) * u(z, t, r)


class Regression(NamedTuple):
    """What the network predicts, and what it should predict, which has no gradient."""

    u: Examples
    target: Examples


def mean_flow(u: AverageVelocity, z: Examples, v: Examples, t: Times, r: Times) -> Regression:
    """u = v - (t - r) du/dt, where du/dt is along the path: dz/dt = v, dr/dt = 0 (Geng et al. 2025, eqs. 6, 10)."""
    with ops.forward_mode():
        found, slope = jax.jvp(u, (z, t, r), (v, jnp.ones_like(t), jnp.zeros_like(r)))
    return Regression(found, jax.lax.stop_gradient(v - rows(t - r, z) * slope))


def shortcut(u: AverageVelocity, z: Examples, v: Examples, t: Times, r: Times) -> Regression:
    """One step is two of half its size (Frans et al. 2025, eqs. 4, 5); v where r = t.

    The halves of the smallest interval are steps of the velocity at one time.
    """
    middle, smallest = (t + r) / 2, t - r <= SMALLEST
    first = u(z, t, jnp.where(smallest, t, middle))
    second = u(z - rows(t - middle, z) * first, middle, jnp.where(smallest, middle, r))
    target = jnp.where(rows(r == t, z), v, (first + second) / 2)
    return Regression(u(z, t, r), jax.lax.stop_gradient(target))


# Intervals of training: (t, r) from times t [B], keys [B] and the distribution of times ---------------------------

Draw = Callable[[Keys], Times]


def any_interval(t: Times, rng: Keys, draw: Draw) -> tuple[Times, Times]:
    """Between t and another time of the same distribution (Geng et al. 2025, section 4.2)."""
    other = draw(rng)
    return jnp.maximum(t, other), jnp.minimum(t, other)


def dyadic_interval(t: Times, rng: Keys, draw: Draw) -> tuple[Times, Times]:
    """The one of 1, 2, 4, ... 64 equal parts of the time that holds t: how many is drawn (Frans et al. 2025)."""
    parts = 2.0 ** jnp.floor(ops.uniform(rng, t.shape) * HALVINGS)
    end = jnp.maximum(jnp.ceil(t * parts), 1)
    return end / parts, (end - 1) / parts


class Objective(NamedTuple):
    """The intervals of training, and what the network learns on them."""

    interval: Callable[[Times, Keys, Draw], tuple[Times, Times]]
    regression: Callable[[AverageVelocity, Examples, Examples, Times, Times], Regression]


OBJECTIVES = {
    "mean_flow": Objective(any_interval, mean_flow),
    "shortcut": Objective(dyadic_interval, shortcut),
}


def intervals(
    name: str, times: str, instant: float, times_rng: Keys, interval_rng: Keys, n: int
) -> tuple[Times, Times]:
    """(t, r) of training examples.

    Args:
      name: of the objective.
      times: the distribution of t, in `denoising.TIMES`.
      instant: the share of examples with r = t.
      times_rng, interval_rng: of t, and of the intervals; each is one key, or one a row [n].
    """
    if not interval_rng.ndim:  # one a row: times from one key are evenly spaced, and those of two keys side by side
        interval_rng = ops.row_keys(interval_rng, jnp.arange(n))
    t = TIMES[times](SCHEDULE, times_rng, n)
    instant_rng, interval_rng = ops.split(interval_rng, 2)
    end, start = OBJECTIVES[name].interval(t, interval_rng, lambda rng: TIMES[times](SCHEDULE, rng, n))
    at_once = ops.uniform(instant_rng, t.shape) < instant
    return jnp.where(at_once, t, end), jnp.where(at_once, t, start)


def adaptive_weight(error: Float[Array, " B"], power: float) -> Float[Array, " B"]:
    """(error + c)^-power, without a gradient (Geng et al. 2025, eq. 22). Power 0 is the squared error itself."""
    return jax.lax.stop_gradient((error + FLOOR) ** -power)


# Reflow (Liu et al. 2023) ----------------------------------------------------------------------------------------


class Transport(NamedTuple):
    """Where the ODE leads from noise, x [B, ...], and how straight the path is, [B].

    straightness: the integral over t of |Z_1 - Z_0 - dZ_t / dt|^2, their S(Z), a value of x; 0 of a straight path.
    """

    x: Examples
    straightness: Float[Array, " B"]


def transport(denoiser: Denoiser, schedule: Schedule, eps: Examples, steps: int) -> Transport:
    """Follows the ODE from standard normal noise in steps of Heun's method, even in t: algorithm 1 makes pairs so.

    The derivative is the mean over a step, so the error of the straightness is of second order in their size.

    Args:
      schedule: with the scaling "flow"; the steps do not depend on its curve.
    """
    grid = noise.even_times(dataclasses.replace(schedule, curve="flow"), steps)
    alpha, sigma = schedule.scales(grid[jnp.array([0, -1])])

    def step(i, carry):
        walk, mean, spread = carry
        moved = solvers.heun(denoiser, walk, solvers.step_of(schedule, grid, i, jnp.zeros_like(eps)))
        slope = (walk.z - moved.z) * steps / (sigma[0] - sigma[1])
        away = slope - mean
        mean += away / (i + 1)
        return moved, mean, spread + away * (slope - mean)  # the squares around the mean, which is Z_0 - Z_1

    still = jnp.zeros_like(eps)
    walk, _, spread = jax.lax.fori_loop(0, steps, step, (solvers.start(schedule, eps), still, still))
    return Transport(walk.z / alpha[1], spread.reshape(len(eps), -1).mean(1) / steps)


if TYPE_CHECKING:
    ObjectiveName = str
else:  # so that a name in the table is known to every config
    ObjectiveName = Literal[tuple(OBJECTIVES)]
