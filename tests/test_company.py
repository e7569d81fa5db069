"""An example is evaluated alike in any company: neither the other rows nor how many they are play a part."""

import jax
import numpy as np
import pytest
from members import MODELS, SMALLEST, smoke, some_slow

from gen_jax.models.base import HasLogProb
from gen_jax.training.program import Program

MIXTURE = ("model.likelihood=logistic_mixture", "model.k=3", "model.num_classes=10")


@pytest.mark.parametrize("name", some_slow(MODELS, {"gan", "linear_ar", "transformer", "vqvae"}))
def test_an_example_is_evaluated_alike_in_any_company_and_batch(name):
    check(name)


@pytest.mark.slow
def test_a_mixture_over_pixels_is_evaluated_alike_in_any_company_and_batch():
    check("vae", *MIXTURE)


def check(name, *flags):
    program = Program(smoke(SMALLEST[name], "steps_per_call=1", *flags))
    state, _ = program.step(program.init(), 0)
    whole = next(iter(program.batches("test")))
    step = jax.jit(program.model.eval_step)
    expected = step(state, whole, program.eval_key)
    scored = isinstance(program.model, HasLogProb)
    log_prob = jax.jit(program.model.log_prob, static_argnums=3) if scored else None
    likelihood = log_prob(state, whole, program.eval_key, 7) if log_prob else None
    for rows in ([5], list(range(20))[::-1]):
        part = jax.tree.map(lambda x: x[np.array(rows)], whole)  # noqa: B023
        for metric, mean in step(state, part, program.eval_key).items():
            for found, one in ((mean.total, expected[metric].total), (mean.weight, expected[metric].weight)):
                np.testing.assert_allclose(found, one[np.array(rows)], rtol=2e-5, atol=2e-5, err_msg=metric)
        if log_prob:
            found = log_prob(state, part, program.eval_key, 7)
            np.testing.assert_allclose(found, likelihood[np.array(rows)], rtol=2e-5, atol=2e-5)
