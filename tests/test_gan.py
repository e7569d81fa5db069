"""The GAN: what each step may move, the losses against closed forms, the ring's modes in a short run."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.errors import ConfigError
from gen_jax.models import gan
from gen_jax.models.base import Gradients, Optimiser
from gen_jax.sampling import SampleOptions

ROOT = jax.random.key(0)


@functools.cache
def build(loss="wgan_gp", n_critic=2, micro_batches=1):
    optimiser = Optimiser(optax.adam(1e-2), ema_decay=0.9, gradients=Gradients(micro_batches))
    cfg = gan.Config(width=8, depth=1, latent=4, loss=loss, n_critic=n_critic)
    return gan.from_config(cfg, {"gen": optimiser, "disc": optimiser})


def batch_of(rows, seed=0):
    vector = np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)
    return {"vector": jnp.asarray(vector), "index": jnp.arange(rows), "valid": jnp.ones(rows, bool)}


@functools.cache
def start(loss="wgan_gp", n_critic=2, micro_batches=1):
    """A model, a batch of 12 rows, its first state."""
    model, batch = build(loss, n_critic, micro_batches), batch_of(12)
    return model, batch, jax.jit(model.init)(ROOT, batch)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("loss", ["wgan_gp", "non_saturating"])
def test_each_step_moves_its_own_network_only(loss):
    model, batch, before = start(loss)

    for still, moved in (("gen", "disc"), ("disc", "gen")):
        frozen = dataclasses.replace(model, **{f"{still}_optimiser": Optimiser(optax.set_to_zero())})
        state = before.replace(nets=before.nets | {still: before.nets[still].replace(opt=optax.EmptyState(), ema=None)})
        after, _ = jax.jit(frozen.train_step)(state, batch, ROOT)
        assert same(after.nets[still], state.nets[still])
        assert not same(after.nets[moved].params, state.nets[moved].params)


@pytest.mark.parametrize("n_critic", [1, 3])
def test_counts_of_updates(n_critic):
    model, batch, state = start(n_critic=n_critic)
    for _ in range(2):
        state, means = jax.jit(model.train_step)(state, batch, ROOT)
    counts = {name: int(optax.tree_utils.tree_get(net.opt, "count")) for name, net in state.nets.items()}
    assert counts == {"gen": 2, "disc": 2 * n_critic} and int(state.step) == 2
    assert float(means["critic_loss"].weight) == 12  # every row of the batch is used once
    assert float(means["generator_loss"].weight) == 12 / n_critic


def test_a_train_step_is_its_parts_written_out():
    model, batch, state = start(n_critic=3)
    after, _ = jax.jit(model.train_step)(state, batch, ROOT)
    gen, disc = state.nets["gen"], state.nets["disc"]
    critic_rng, gen_rng = jax.random.split(jax.random.fold_in(ROOT, 0))
    for i, key in enumerate(jax.random.split(critic_rng, 3)):
        disc, _ = jax.jit(model.critic_step)(disc, gen, batch["vector"][i::3], key)
    gen, _ = jax.jit(model.generator_step)(gen, disc, batch["vector"][2::3], gen_rng)
    for ours, theirs in zip(jax.tree.leaves(after.nets), jax.tree.leaves({"gen": gen, "disc": disc}), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_batch_that_does_not_divide_is_refused():
    model, _, state = start(n_critic=3)
    with pytest.raises(ConfigError, match=r"multiple of model\.n_critic = 3, got 7"):
        model.train_step(state, batch_of(7), ROOT)


def test_losses_at_known_points():
    zero = jnp.zeros(3)  # D = 1/2
    np.testing.assert_allclose(gan.non_saturating_generator(zero), math.log(2), rtol=1e-6)
    np.testing.assert_allclose(gan.logistic_critic(zero, zero), 2 * math.log(2), rtol=1e-6)
    real, fake = jnp.array([2.0]), jnp.array([-1.0])
    d_real, d_fake = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    np.testing.assert_allclose(gan.logistic_critic(real, fake), -math.log(d_real) - math.log(1 - d_fake), rtol=1e-6)
    np.testing.assert_allclose(gan.wasserstein_critic(real, fake), -3)
    np.testing.assert_allclose(gan.wasserstein_generator(fake), 1)
    far = jnp.array([1e4])  # from logits, nothing overflows
    assert np.isfinite(gan.logistic_critic(-far, far)).all()


def test_gradient_penalty_of_a_linear_critic():
    weights = jnp.array([3.0, 4.0])
    real, fake = jax.random.normal(ROOT, (2, 6, 2))
    penalty = gan.gradient_penalty(lambda x: x @ weights, real, fake, ROOT)
    np.testing.assert_allclose(penalty, (5 - 1) ** 2, rtol=1e-5)


def test_gradient_penalty_against_differences():
    def critic(x):
        return jnp.sin(x[:, 0]) * x[:, 1] ** 2

    real = jax.random.normal(ROOT, (5, 2))
    penalty = gan.gradient_penalty(critic, real, real, ROOT)  # every mixture is the point itself
    eps = 1e-2
    slopes = [(critic(real + eps * unit) - critic(real - eps * unit)) / (2 * eps) for unit in jnp.eye(2)]
    expected = (np.sqrt(sum(np.square(s) for s in slopes)) - 1) ** 2
    np.testing.assert_allclose(penalty, expected, rtol=1e-2, atol=1e-3)


def test_gradient_penalty_is_taken_between_real_and_fake():
    # the slope of (x + 2)^2 / 2 is x + 2, at least 2 between 0 and 10, so the penalty tells x
    penalty = gan.gradient_penalty(
        lambda x: (x[:, 0] + 2) ** 2 / 2, jnp.zeros((200, 1)), jnp.full((200, 1), 10.0), ROOT
    )
    x = np.sqrt(penalty) + 1 - 2
    assert x.min() >= -1e-3 and x.max() <= 10.001
    assert abs(x.mean() - 5) < 0.7 and abs(x.std() - 10 / np.sqrt(12)) < 0.4  # uniform


def test_accumulated_critic_counts_every_row():
    model, batch, state = start(micro_batches=2)
    _, means = jax.jit(model.train_step)(state, batch, ROOT)
    assert float(means["critic_loss"].weight) == 12


def test_evaluation_depends_on_the_index_not_on_the_batch():
    model, batch, state = start()
    step = jax.jit(model.eval_step)
    whole = step(state, batch, ROOT)
    turned = step(state, jax.tree.map(lambda x: x[::-1], batch) | {"valid": jnp.arange(12) < 7}, ROOT)
    for name in ("critic_loss", "logit_gap", "gradient_penalty"):
        np.testing.assert_allclose(whole[name].total[::-1][:7], turned[name].total[:7], rtol=1e-5, atol=1e-6)
        assert float(turned[name].weight.sum()) == 7


def test_sample_uses_the_averaged_generator():
    model, batch, state = start()
    sample = jax.jit(lambda state: model.sample(state, ROOT, 7, SampleOptions()))
    after, _ = jax.jit(model.train_step)(state, batch, ROOT)
    live = after.nets["gen"].replace(ema=dict(params=after.nets["gen"].params, stats={}))
    first, averaged, moved = sample(state), sample(after), sample(after.replace(nets=after.nets | {"gen": live}))
    assert averaged.shape == (7, 2) and averaged.dtype == jnp.float32
    assert 0 < float(jnp.abs(averaged - first).max()) < float(jnp.abs(moved - first).max())


def test_critic_learns_to_tell_real_from_fake():
    model, batch, state = start("non_saturating")

    @jax.jit
    def run(disc):
        def body(disc, key):
            return model.critic_step(disc, state.nets["gen"], batch["vector"] + 4, key)

        return jax.lax.scan(body, disc, jax.random.split(ROOT, 200))

    _, means = run(state.nets["disc"])
    assert float(means["critic_loss"].total[-1] / 12) < 0.1 < float(means["critic_loss"].total[0] / 12)
    assert float(means["logit_gap"].total[-1]) > 0
