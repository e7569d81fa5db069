"""A small GPT to plan for TPUs that are not here."""

import importlib.util

import pytest

from gen_jax import config
from gen_jax.plan import chips, planner

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'gen_jax[plan]'")


LAYERS, WIDTH, CONTEXT, VOCAB, BATCH = 3, 64, 20, 8192, 16


def experiment(rules=((".*", "replicate"),), **mesh):
    """A small GPT whose text is missing."""
    model = dict(vocab=VOCAB, context=CONTEXT, layers=LAYERS, heads=4, width=WIDTH, scan_layers=True)
    return config.resolve(
        dict(
            total_steps=8,
            batch_size=BATCH,
            eval_batch_size=BATCH,
            steps_per_call=2,
            data=dict(source="token_file", path="nowhere", context=CONTEXT),
            model_name="transformer",
            model=model | dict(bias=False),
            optim=dict(net=dict(name="adamw", weight_decay=0.1, clip=1.0, ema=0.99)),
            mesh=mesh,
            sharding=rules,
        )
    )


@pytest.fixture(scope="module")
def plan():
    return planner.make("gpt", experiment(), chips.parse("v5e:2x2"))
