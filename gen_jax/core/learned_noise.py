"""A schedule that is learned: its end points and the curve between them (Kingma et al. 2021, appendices H and I.2).

The bound depends on the curve by its end points alone (eq. 18), which follow the gradient of the bound. The curve
between them follows the gradient of the variance of its estimate.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gen_jax.core.noise import CURVES, Numbers, Schedule
from gen_jax.core.state import PyTree

UNITS = 16  # sigmoids of the curve
WIDEST = 20.0  # as of the ends that a config takes
HALVINGS = 24  # float32 tells no more of t
Params = dict[str, Array]
Place = tuple[Float[Array, " B"], Float[Array, " B"]]  # share(t) and its slope


def straight(t: Numbers) -> Numbers:
    """lambda falls at one rate."""
    return t


@dataclasses.dataclass(frozen=True)
class LearnedSchedule(Schedule):
    """`share`, from 0 to 1, is the part of the way from `lambda_max` to `lambda_min` that is behind at a time."""

    share: Callable[[Numbers], Numbers] = straight

    def log_snr(self, t: Numbers) -> Numbers:
        return self.lambda_max + (self.lambda_min - self.lambda_max) * self.share(t)

    def time(self, log_snr: Numbers) -> Numbers:
        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            later = self.log_snr(middle) > log_snr
            return jnp.where(later, middle, low), jnp.where(later, high, middle)

        low, high = jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros_like(log_snr), jnp.ones_like(log_snr)))
        return (low + high) / 2

    def even(self) -> "LearnedSchedule":
        return dataclasses.replace(self, share=straight)


def init(schedule: Schedule) -> Params:
    """The end points of `schedule`, and nearly a straight line: K sigmoids at even times, of equal heights."""
    return {
        "ends": jnp.array([schedule.lambda_max, schedule.lambda_min], jnp.float32),
        "rate": jnp.zeros(()),
        "heights": jnp.full(UNITS, -jnp.log(UNITS)),
        "steepness": jnp.full(UNITS, jnp.log(UNITS)),
        "middles": (jnp.arange(UNITS) + 0.5) / UNITS,
    }


def learned(scaling: str, params: Params) -> LearnedSchedule:
    """The schedule of these parameters."""
    lambda_max, lambda_min = ends(params)
    return LearnedSchedule("learned", scaling, lambda_max, lambda_min, lambda t: _share(params, t))


def ends(params: Params) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """lambda_max and lambda_min."""
    first, last = jnp.clip(params["ends"], -WIDEST, WIDEST)
    return first, last


def place(params: Params, t: Float[Array, " B"]) -> Place:
    """The share of the way at t, and its slope."""
    return jax.jvp(lambda t: _share(params, t), (t,), (jnp.ones_like(t),))


def _share(params: Params, t: Numbers) -> Numbers:
    """A monotone network with one hidden layer, scaled to go from 0 to 1 (appendix H)."""
    rate, heights, steepness = (jnp.exp(params[name]) for name in ("rate", "heights", "steepness"))

    def height(t):
        bent = jax.nn.sigmoid(steepness * (jnp.asarray(t)[..., None] - params["middles"]))
        return rate * t + (heights * bent).sum(-1)

    return (height(t) - height(0.0)) / (height(1.0) - height(0.0))


def of_less_variance(
    loss: Callable[[PyTree, Place, PyTree], Float[Array, " B"]], variables: PyTree, place: Place, rest: PyTree
) -> Float[Array, " B"]:
    """`loss(variables, place, rest)`, whose gradient in `place` is that of loss^2 / 2 in units of the mean loss.

    The mean of the loss does not depend on the curve, so the curve that makes the mean of its square smallest makes its
    variance smallest. One backward pass gives both gradients (appendix I.2). There is none in `rest`.
    """

    def forward(variables, place, rest):
        value, pull = jax.vjp(lambda variables, place: loss(variables, place, rest), variables, place)
        return value, (pull, value)

    def backward(kept, cotangent):
        pull, value = kept
        of_variables, of_place = pull(cotangent)
        return of_variables, jax.tree.map(lambda slope: slope * value / value.mean(), of_place), None

    reduced = jax.custom_vjp(loss)
    reduced.defvjp(forward, backward)
    return reduced(variables, place, rest)


def by_forward_mode(f: Callable[[Params], Float[Array, " B"]], params: Params) -> Float[Array, " B"]:
    """f(params), differentiated forwards: for few parameters and large intermediate results."""
    fixed = jax.lax.stop_gradient(params)
    slopes = jax.lax.stop_gradient(jax.jacfwd(f)(fixed))  # leaves [B, ...]
    moved = jax.tree.map(lambda slope, new, old: jnp.tensordot(slope, new - old, new.ndim), slopes, params, fixed)
    return jax.lax.stop_gradient(f(fixed)) + sum(jax.tree.leaves(moved))


if TYPE_CHECKING:
    CurveName = str
else:
    CurveName = Literal[("learned", *CURVES)]
