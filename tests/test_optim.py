"""Optimizers and schedules against Optax by hand; freezing, averaging and accumulation against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import settings
from gen_jax.core import optim
from gen_jax.core.gradients import Gradients, Terms
from gen_jax.core.state import Mean
from gen_jax.errors import ConfigError

PARAMS = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "b": {"kernel": jnp.full((3, 1), 0.5)}}
RNG = jax.random.key(0)


def batch(n=8):
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    return {"x": jnp.asarray(x), "weight": jnp.arange(1.0, n + 1)}


def squares(params, stats, batch, rng):
    """A regression whose rows have unlike weights."""
    y = (batch["x"] @ params["a"]["kernel"] + params["a"]["bias"]) @ params["b"]["kernel"]
    loss = Mean(batch["weight"] * (y[:, 0] - 1) ** 2, batch["weight"])
    return Terms({"loss": loss}, stats)


def build(**fields):
    return optim.build(optim.Config(**fields), updates=100)


@pytest.mark.parametrize("name", optim.RULES)
def test_every_rule_goes_downhill(name):
    optimizer = build(name=name, lr=1e-2, clip=1.0, weight_decay=1e-4)
    net = optimizer.init({"params": PARAMS})
    step = jax.jit(lambda net: optimizer.step(net, squares, batch(), RNG))
    losses = []
    for _ in range(30):
        net, terms = step(net)
        losses.append(float(terms.means["loss"].total / terms.means["loss"].weight))
    assert losses[-1] < 0.7 * losses[0]


def test_accumulated_gradients_are_those_of_the_whole_batch():
    whole, _ = Gradients()(squares, PARAMS, {}, batch(), RNG)
    for m in (2, 4, 8):
        parts, terms = Gradients(micro_batches=m)(squares, PARAMS, {}, batch(), RNG)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, parts)
        assert float(terms.means["loss"].weight) == 36.0


def test_frozen_leaves_keep_their_bits_and_have_no_moments():
    optimizer = build(name="adam", lr=0.1, freeze=("a/.*",))
    net = optimizer.init({"params": PARAMS})
    moments = [leaf.shape for leaf in jax.tree.leaves(net.opt) if leaf.ndim]
    assert moments == [(3, 1), (3, 1)]  # of the one trainable leaf
    new, _ = optimizer.step(net, squares, batch(), RNG)
    jax.tree.map(np.testing.assert_array_equal, new.params["a"], PARAMS["a"])
    assert not np.array_equal(new.params["b"]["kernel"], PARAMS["b"]["kernel"])


def test_the_average_follows_parameters_and_float_statistics():
    optimizer = build(name="sgd", lr=0.1, ema=0.9)

    def loss(params, stats, batch, rng):
        terms = squares(params, stats, batch, rng)
        return terms.replace(stats={"batch_stats": {"mean": stats["batch_stats"]["mean"] + 1, "n": jnp.int32(5)}})

    stats = {"batch_stats": {"mean": jnp.zeros(2), "n": jnp.int32(0)}}
    net = optimizer.init({"params": PARAMS, **stats})
    new, _ = optimizer.step(net, loss, batch(), RNG)
    assert int(new.ema["stats"]["batch_stats"]["n"]) == 5
    assert new.averaged.keys() == new.variables.keys()
    want, mean = PARAMS, 0.0
    for n in range(3):
        net, _ = optimizer.step(net, loss, batch(), RNG)
        decay = (1 + n) / (10 + n)
        want = jax.tree.map(lambda old, now, d=decay: d * old + (1 - d) * now, want, net.params)
        mean = decay * mean + (1 - decay) * (n + 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), net.ema["params"], want)
    np.testing.assert_allclose(net.ema["stats"]["batch_stats"]["mean"], mean, rtol=1e-6)
    assert int(net.ema["updates"]) == 3


def test_the_average_reaches_its_own_decay():
    optimizer = build(name="sgd", lr=0.1, ema=0.5)
    net = optimizer.init({"params": PARAMS})
    net = net.replace(ema=net.ema | {"updates": jnp.int32(50)})
    new, _ = optimizer.step(net, squares, batch(), RNG)
    want = jax.tree.map(lambda old, now: (old + now) / 2, PARAMS, new.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new.ema["params"], want)


def test_weight_decay_spares_vectors():
    optimizer = build(name="adamw", lr=1.0, weight_decay=0.5)
    net = optimizer.init({"params": PARAMS})
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.tx.update(zero, net.opt, PARAMS)
    np.testing.assert_allclose(updates["a"]["kernel"], -0.5 * PARAMS["a"]["kernel"])
    np.testing.assert_array_equal(updates["a"]["bias"], 0)


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ({"schedule": "constant"}, {0: 1.0, 99: 1.0}),
        ({"schedule": "constant", "warmup": 10}, {0: 0.1, 4: 0.5, 9: 1.0, 99: 1.0}),
        ({"schedule": "cosine", "end": 0.1}, {0: 1.0, 50: 0.55, 100: 0.1}),
        ({"schedule": "linear", "warmup": 20}, {0: 0.05, 9: 0.5, 20: 1.0, 60: 0.5, 100: 0.0}),
        ({"schedule": "step", "drop_at": (0.5,), "drop": 0.1}, {49: 1.0, 50: 0.1, 99: 0.1}),
        ({"schedule": "step", "warmup": 20}, {49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01}),  # shares of the whole run
        ({"schedule": "cosine", "schedule_steps": 50}, {0: 1.0, 25: 0.5, 50: 0.0, 99: 0.0}),
    ],
)
def test_schedules(fields, values):
    schedule = optim.schedule(optim.Config(lr=1.0, **fields), updates=100)
    for step, value in values.items():
        assert float(schedule(step)) == pytest.approx(value, abs=1e-6)


def test_clipping_bounds_the_update_and_reports_the_norm_before_it():
    optimizer = build(name="sgd", lr=1.0, clip=1e-3)
    net = optimizer.init({"params": PARAMS})
    new, terms = optimizer.step(net, squares, batch(), RNG)
    moved = jax.tree.map(lambda a, b: a - b, new.params, net.params)
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(moved)))
    assert norm == pytest.approx(1e-3, rel=1e-4)
    assert float(terms.means["grad_norm"].total) > 1e-2


def test_warmup_and_schedule_steps_are_steps_of_the_run():
    cfg = optim.Config(lr=1.0, schedule="linear", warmup=2, schedule_steps=10)
    rates = [float(optim.schedule(cfg, 60, per_step=3)(i)) for i in (0, 5, 18, 30)]
    assert rates == pytest.approx([1 / 6, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(name="sgd", b2=0.9), "b2: expected None where name is 'sgd', which reads momentum"),
        (dict(name="lion", eps=1e-8), "eps: expected None where name is 'lion', which reads b1, b2"),
        (dict(momentum=0.0), "momentum: expected None where name is 'adam', which reads b1, b2, eps"),
        (dict(name="adafactor", b1=0.9), "b1: expected None where name is 'adafactor', which reads no such field"),
        (dict(end=0.1), "end: expected None where schedule is 'constant', which reads no such field"),
        (dict(schedule="cosine", drop=0.1), "drop: expected None where schedule is 'cosine', which reads schedule_st"),
    ],
)
def test_what_a_rule_or_a_schedule_does_not_read_is_refused(fields, message):
    with pytest.raises(ConfigError, match=f"^config.optim.net.{message}") as error:
        settings.validate(optim.Config, fields, "config.optim.net")
    assert "got" not in str(error.value)
