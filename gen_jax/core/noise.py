"""Gaussian noise of a diffusion: z = alpha x + sigma eps, with the log-SNR lambda = log(alpha^2 / sigma^2).

Time t goes from 0 (data, `lambda_max`) to 1 (noise, `lambda_min`). A schedule is a curve t -> lambda and a scaling
lambda -> (alpha, sigma). Solvers and losses read lambda, so the curve only says where steps and training times lie
(Kingma et al. 2021, section 5.1).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

Numbers = Float[Array, "..."]
Examples = Float[Array, "B ..."]


class Scaling(NamedTuple):
    """How signal and noise share the amplitude.

    of_log_snr: lambda -> (alpha, sigma), exact at both ends.
    scales: position -> (alpha, sigma).
    position, log_snr: lambda -> position, and back. The position is the variable in which a sample with a constant
      prediction moves along a line or a circle; ODE solvers step in it.
    """

    of_log_snr: Callable[[Numbers], tuple[Numbers, Numbers]]
    scales: Callable[[Numbers], tuple[Numbers, Numbers]]
    position: Callable[[Numbers], Numbers]
    log_snr: Callable[[Numbers], Numbers]


SCALINGS = {
    # alpha^2 + sigma^2 = 1, by the angle (Salimans & Ho 2022, appendix D)
    "vp": Scaling(
        lambda log_snr: (jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))),
        lambda angle: (jnp.cos(angle), jnp.sin(angle)),
        lambda log_snr: jnp.arctan(jnp.exp(-log_snr / 2)),
        lambda angle: -2 * jnp.log(jnp.tan(angle)),
    ),
    # alpha = 1, by sigma (Karras et al. 2022)
    "ve": Scaling(
        lambda log_snr: (jnp.ones_like(log_snr), jnp.exp(-log_snr / 2)),
        lambda sigma: (jnp.ones_like(sigma), sigma),
        lambda log_snr: jnp.exp(-log_snr / 2),
        lambda sigma: -2 * jnp.log(sigma),
    ),
    # alpha + sigma = 1, by sigma (Lipman et al. 2023; Liu et al. 2023)
    "flow": Scaling(
        lambda log_snr: (jax.nn.sigmoid(log_snr / 2), jax.nn.sigmoid(-log_snr / 2)),
        lambda sigma: (1 - sigma, sigma),
        lambda log_snr: jax.nn.sigmoid(-log_snr / 2),
        lambda sigma: 2 * (jnp.log1p(-sigma) - jnp.log(sigma)),
    ),
}


class Curve(NamedTuple):
    """A decreasing function, place -> lambda, and its inverse. A schedule uses the part between its end points."""

    log_snr: Callable[[Numbers], Numbers]
    place: Callable[[Numbers], Numbers]


def _cosine(place: Numbers) -> Numbers:
    """alpha = cos(pi s / 2) (Nichol & Dhariwal 2021, without their offset)."""
    return SCALINGS["vp"].log_snr(math.pi / 2 * place)


def _cosine_place(log_snr: Numbers) -> Numbers:
    return 2 / math.pi * SCALINGS["vp"].position(log_snr)


BETAS = (0.1, 20.0)  # Song et al. 2021, appendix C: DDPM's 1,000 steps in continuous time


def _linear(place: Numbers) -> Numbers:
    """beta(s) grows linearly; -log alpha^2 is its integral (Song et al. 2021, eq. 33)."""
    low, high = BETAS
    return -jnp.log(jnp.expm1(place**2 * (high - low) / 2 + place * low))


def _linear_place(log_snr: Numbers) -> Numbers:
    low, high = BETAS
    integral = jax.nn.softplus(-log_snr)
    return 2 * integral / (low + jnp.sqrt(low**2 + 2 * (high - low) * integral))


CURVES = {
    "cosine": Curve(_cosine, _cosine_place),
    "linear": Curve(_linear, _linear_place),
    "flow": Curve(SCALINGS["flow"].log_snr, SCALINGS["flow"].position),  # sigma / alpha = s / (1 - s)
    "log_linear": Curve(jnp.negative, jnp.negative),  # sigma / alpha grows geometrically
}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """lambda(t), from `lambda_max` at t = 0 to `lambda_min` at t = 1, and (alpha, sigma) by lambda.

    In float32 the curves are exact for lambda between -20 and 20.
    """

    curve: str = "cosine"
    scaling: str = "vp"
    lambda_max: float | Array = 15.0
    lambda_min: float | Array = -15.0

    def log_snr(self, t: Numbers) -> Numbers:
        first, last = self._ends
        return CURVES[self.curve].log_snr(first + t * (last - first))

    def slope(self, t: Numbers) -> Numbers:
        """d lambda / dt, below 0."""
        return jax.jvp(self.log_snr, (t,), (jnp.ones_like(t),))[1]

    def time(self, log_snr: Numbers) -> Numbers:
        """The t of a lambda, within [0, 1]."""
        first, last = self._ends
        return jnp.clip((CURVES[self.curve].place(log_snr) - first) / (last - first), 0, 1)

    def even(self) -> "Schedule":
        """The same end points with a lambda that falls at one rate."""
        return dataclasses.replace(self, curve="log_linear")

    def scales(self, log_snr: Numbers) -> tuple[Numbers, Numbers]:
        """(alpha, sigma)."""
        return SCALINGS[self.scaling].of_log_snr(log_snr)

    @functools.cached_property
    def _ends(self) -> tuple[float, float]:
        with jax.ensure_compile_time_eval():
            first, last = CURVES[self.curve].place(jnp.array([self.lambda_max, self.lambda_min], jnp.float32))
            return float(first), float(last)


def diffuse(schedule: Schedule, x: Examples, log_snr: Float[Array, " B"], noise: Examples) -> Examples:
    """z = alpha x + sigma noise, at a lambda for each row."""
    alpha, sigma = (rows(scale, x) for scale in schedule.scales(log_snr))
    return alpha * x + sigma * noise


def rows(values: Shaped[Array, " B"], like: Examples) -> Shaped[Array, "B ..."]:
    """[B] -> [B, 1, ...], to broadcast against the rows of `like`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def prior_scale(schedule: Schedule) -> Float[Array, ""]:
    """The standard deviation of p(z) at lambda_min, whose mean is 0."""
    return jnp.float32(1) if schedule.scaling == "vp" else schedule.scales(jnp.float32(schedule.lambda_min))[1]


# Grids of lambda for solvers, from noise to data: [steps + 1] ---------------------------------------------------


def even_times(schedule: Schedule, steps: int) -> Float[Array, " N"]:
    """Equally spaced in t."""
    return schedule.log_snr(jnp.linspace(1.0, 0.0, steps + 1))


def even_log_snrs(schedule: Schedule, steps: int) -> Float[Array, " N"]:
    """Equally spaced in lambda (Lu et al. 2022)."""
    return jnp.linspace(schedule.lambda_min, schedule.lambda_max, steps + 1)


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Float[Array, " N"]:
    """Equally spaced in (sigma / alpha)^(1 / rho) (Karras et al. 2022, eq. 5)."""
    first, last = (jnp.exp(-jnp.float32(end) / 2 / rho) for end in (schedule.lambda_min, schedule.lambda_max))
    return -2 * rho * jnp.log(jnp.linspace(first, last, steps + 1))


GRIDS = {"time": even_times, "log_snr": even_log_snrs, "karras": karras}


if TYPE_CHECKING:
    CurveName = str
    ScalingName = str
    GridName = str
else:  # so that a name in the table is known to every config
    CurveName = Literal[tuple(CURVES)]
    ScalingName = Literal[tuple(SCALINGS)]
    GridName = Literal[tuple(GRIDS)]
