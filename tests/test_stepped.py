"""Samplers of many steps: a loop on the device, or a dispatch a step from the host."""

import functools
import types

import jax
import numpy as np
import pytest

from gen_jax.core import ops
from gen_jax.core.state import State
from gen_jax.models.base import sampler


class Walk:
    """Adds 1 in each step, by a convolution where it is asked to."""

    def __init__(self, convolves):
        self.convolves, self.traces = convolves, 0

    def sample_steps(self, options):
        return options

    def sample_init(self, state, rng, n, options):
        return jax.numpy.zeros((n, 4, 4, 1))

    def sample_step(self, state, x, i, options):
        self.traces += 1
        if self.convolves:
            x = jax.lax.conv_general_dilated(x, state.step, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return x + 1 + 0 * i

    def sample_finish(self, state, x, options):
        return x

    def sample(self, state, rng, n, options):
        raise NotImplementedError


@pytest.mark.parametrize("convolves, dispatches", [(True, 50), (False, 17)])
def test_steps_are_dispatched_as_the_device_likes(convolves, dispatches, monkeypatch):
    monkeypatch.setattr(ops, "platform", lambda: "cpu")
    seen, one = [], State(jax.numpy.ones((1, 1, 1, 1)), {})
    model = Walk(convolves)
    found = sampler(model, 2, 50, lambda done, steps: seen.append((done, steps)))(one, jax.random.key(0))
    assert (np.asarray(found) == 50).all()
    assert len(seen) == dispatches and seen[0] == (0, 50) and all(steps == 50 for _, steps in seen)
    assert model.traces <= 3


def test_no_program_grows_with_the_steps():
    from gen_jax.models.base import Stepped

    for steps in (3, 3000):
        model = Walk(convolves=False)
        sample = functools.partial(types.MethodType(Stepped.sample, model), n=1, options=steps)
        jaxpr = jax.make_jaxpr(sample)(State(jax.numpy.zeros(()), {}), jax.random.key(0))
        assert len(str(jaxpr).splitlines()) < 40 and model.traces == 1
