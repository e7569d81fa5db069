"""The picture of a sampler's steps."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from evaluating import IMAGES, STATE, Linear, build, small_images

from gen_jax.errors import ConfigError
from gen_jax.models.base import Stepped
from gen_jax.runs import grids
from gen_jax.runs.grids import Labels


@dataclasses.dataclass(frozen=True)
class Climb(Stepped):
    """Adds 10 in each of 6 steps to an image that starts at its row's number."""

    def sample_steps(self, options):
        return 6

    def sample_init(self, state, rng, n, options):
        return jnp.broadcast_to(jnp.arange(n)[:, None, None, None], (n, 1, 3, 1))

    def sample_step(self, state, carry, i, options):
        return carry + 10 + 0 * i

    def sample_finish(self, state, carry, options):
        return carry.astype(jnp.uint8)


class Showing(Climb):
    def sample_shown(self, state, carry, i, options):
        return {"z": carry.astype(jnp.uint8), "x": jnp.full_like(carry, 100 + i).astype(jnp.uint8)}


def image(value):
    return np.full((1, 3, 1), value, np.uint8)


def test_a_row_is_a_sample_and_a_column_a_step():
    section = {"type": "trajectory", "rows": 2, "columns": 3}
    found = build(section, Climb(), {"image": small_images()}, **IMAGES)(STATE).images["trajectory"]
    expected = np.stack([image(row + 10 * step) for row in range(2) for step in (0, 3, 6)])
    labels = Labels("Samples step by step", columns=("step 0", "step 3", "step 6"))
    assert (found == grids.grid(expected, labels, 3)).all()


def test_what_the_model_shows_stands_one_below_the_other(written):
    section = {"type": "trajectory", "rows": 2, "columns": 99}
    found = build(section, Showing(), {"image": small_images()}, **IMAGES)(STATE).images["trajectory"]
    steps = range(7)
    z = np.stack([image(row + 10 * step) for row in range(2) for step in steps])
    x = np.stack([image(100 + step) for _ in range(2) for step in steps])
    labels = Labels("Samples step by step", ("z", "x"), [f"step {step}" for step in steps])
    assert (found == grids.pairs(z, x, labels=labels, columns=7)).all()
    assert len(written["z"]) == len(written["x"]) == 4  # two rows, drawn twice


def test_only_images_in_steps_have_one():
    with pytest.raises(ConfigError, match="trajectory: expected a model that samples in steps, which Linear does not"):
        build({"type": "trajectory"}, Linear(), {}, **IMAGES)
    with pytest.raises(ConfigError, match="trajectory: expected images, the data are vector"):
        build({"type": "trajectory"}, Climb(), {})
