"""Transforms of a critic's input: differentiable augmentation of images (Zhao et al. 2020), and instance noise.

The generator's gradient passes through both.

Each function takes images [B, H, W, C] in [-1, 1] and one key, or one a row (`ops.uniform` takes both).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from gen_jax.core import ops

Images = Float[Array, "B H W C"]
View = Callable[[Array, jax.Array, Any], Array]  # (x [B, ...], key, training step) -> what the critic is shown of it


def color(x: Images, rng: Key[Array, "*rows"]) -> Images:
    """Brightness plus U[-0.5, 0.5), saturation times U[0, 2), contrast times U[0.5, 1.5), in this order."""
    brightness, saturation, contrast = ops.uniform(rng, (len(x), 3))[:, :, None, None, None].swapaxes(0, 1)
    x = x + (brightness - 0.5)
    grey = x.mean(3, keepdims=True)
    x = grey + 2 * saturation * (x - grey)
    mean = x.mean((1, 2, 3), keepdims=True)
    return mean + (contrast + 0.5) * (x - mean)


def translation(x: Images, rng: Key[Array, "*rows"]) -> Images:
    """Shifts by whole pixels, up to an eighth of each side. New pixels are 0."""
    for axis, draw in zip((1, 2), ops.uniform(rng, (len(x), 2)).T, strict=True):
        side = x.shape[axis]
        reach = _eighth(side)
        source = jnp.arange(side) - _integer(draw, -reach, reach)[:, None]  # [B, side]
        inside = (source >= 0) & (source < side)
        shape = (len(x), *(side if i == axis else 1 for i in (1, 2, 3)))
        x = jnp.take_along_axis(x, source.clip(0, side - 1).reshape(shape), axis) * inside.reshape(shape)
    return x


def cutout(x: Images, rng: Key[Array, "*rows"]) -> Images:
    """Sets a rectangle to 0. It is half as wide and high as the image, and its centre is anywhere."""
    rows, columns = (
        _within(side, draw) for side, draw in zip(x.shape[1:3], ops.uniform(rng, (len(x), 2)).T, strict=True)
    )
    return x * ~(rows[:, :, None, None] & columns[:, None, :, None])


def _within(side: int, draw: Float[Array, " B"]) -> Bool[Array, "B side"]:
    """The mask of the rectangle along one side. It is shorter at the edge."""
    half = (side + 1) // 2
    start = _integer(draw, 0, side - half % 2) - half // 2
    place = jnp.arange(side) - start[:, None]
    return (place >= 0) & (place < half)


def _eighth(side: int) -> int:
    return int(side / 8 + 0.5)


def _integer(draw: Float[Array, " B"], low: int, high: int) -> Int[Array, " B"]:
    """A uniform draw in [0, 1) to the integers from low to high."""
    return low + jnp.floor(draw * (high - low + 1)).astype(jnp.int32)


POLICIES = {"color": color, "translation": translation, "cutout": cutout}


def augment(x: Images, rng: Key[Array, "*rows"], policy: Sequence[str]) -> Images:
    """Applies the policies in order."""
    keys = ops.split(rng, len(policy)) if policy else []
    return functools.reduce(lambda x, step: POLICIES[step[0]](x, step[1]), zip(policy, keys, strict=True), x)


def view(
    x: Float[Array, "B *D"], rng: Key[Array, "*rows"], step: Any, policy: Sequence[str], noise: float, noise_steps: int
) -> Float[Array, "B *D"]:
    """`x` augmented by `policy`, with instance noise (Sonderby et al. 2017) whose standard deviation falls from `noise`
    at step 0 to 0 at `noise_steps`."""
    augment_rng, noise_rng = ops.split(rng, 2)
    x = augment(x, augment_rng, policy) if policy else x
    if noise:
        x += noise * jnp.maximum(1 - step / noise_steps, 0) * ops.normal(noise_rng, x.shape)
    return x
