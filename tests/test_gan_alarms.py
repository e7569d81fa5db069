"""The alarms of a game that goes wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gans import ROOT, batch_of, build

from gen_jax import config, config_file
from gen_jax.core.gradients import Optimizer
from gen_jax.data.sources.gaussians import Config as Gaussians
from gen_jax.data.sources.gaussians import load
from gen_jax.models import gan
from gen_jax.training.program import Program


def alarms(rate, steps, critic_batch, n_critic=1, **fields):
    """Of each step on the ring, with a rate of the critic; the generator's is 1e-3."""
    cfg = gan.Config(data_dim=2, n_critic=n_critic, **fields)
    optimizers = {"gen": Optimizer(optax.adam(1e-3, b1=0.0)), "disc": Optimizer(optax.adam(rate, b1=0.0))}
    model, points = gan.from_config(cfg, optimizers), load(Gaussians(examples=100_000), 0).arrays["train"]["vector"]
    vector = np.resize(points, (steps, critic_batch * n_critic, 2))
    state = jax.jit(model.init)(ROOT, {"vector": vector[0]})

    def body(state, rows):
        state, means = model.train_step(state, {"vector": rows}, ROOT)
        return state, means["alarm_collapse"].total

    return np.asarray(jax.jit(lambda state: jax.lax.scan(body, state, vector))(state)[1])


@pytest.mark.parametrize(
    "fields",
    [
        dict(loss="non_saturating", widths=(32, 32), critic_batch=64),
        dict(loss="hinge", widths=(32, 32), critic_batch=64),
        pytest.param(  # gan/ring.py
            dict(loss="wasserstein", penalties={"gradient": 1.0}, n_critic=5, critic_batch=256),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda fields: fields["loss"],
)
def test_the_alarm_sounds_where_the_critic_learns_a_hundred_times_too_fast(fields):
    assert alarms(1e-3, 200, **fields).max() == 0
    assert alarms(1e-1, 200, **fields).max() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fast"), [("wgan_gp", ("disc",)), ("conditional", ("gen", "disc")), ("conditional", ())]
)
def test_the_alarm_sounds_where_a_dcgan_learns_a_hundred_times_too_fast(kind, fast):
    cfg = config_file.read(f"experiments/gan/mnist.py:kind={kind}") | {"data": {"source": "digits", "size": 28}}
    rates = {net: section.lr for net, section in config.resolve(cfg).optim.items()}
    for net in fast:
        cfg["optim"][net]["lr"] = 100 * rates[net]
    program, found = Program(config.resolve(cfg | {"mesh": {"data": 1}})), []
    state = program.init()
    while len(found) < 200 and not any(found):
        state, means = program.step(state, len(found))
        found.append(bool(means["alarm_collapse"].total[0]))
    assert any(found) == bool(fast)


def test_critic_learns_to_tell_real_from_fake():
    model, batch = build(loss="non_saturating"), batch_of(12)
    state = jax.jit(model.init)(ROOT, batch)

    @jax.jit
    def run(disc):
        def body(disc, key):
            far = model.with_noise({"vector": batch["vector"] + 4}, key)
            return model.critic_step(disc, state.nets["gen"], far, key, jnp.int32(0))

        return jax.lax.scan(body, disc, jax.random.split(ROOT, 200))

    _, means = run(state.nets["disc"])
    assert float(means["critic_loss"].total[-1] / 12) < 0.1 < float(means["critic_loss"].total[0] / 12)
    assert float(means["logit_gap"].total[-1]) > 0
