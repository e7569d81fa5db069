"""The learned schedule: its shape, its gradients, and the bound that trains it."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core import learned_noise, noise
from gen_jax.core.gradients import Optimizer
from gen_jax.core.noise import Schedule, rows
from gen_jax.models import base, diffusion
from gen_jax.settings import validate

KEY, N = jax.random.key(0), 64
ENDS = Schedule("learned", "vp", 9.0, -7.0)


def random_params(scale=0.5):
    params = learned_noise.init(ENDS)
    keys = dict(zip(params, jax.random.split(KEY, len(params)), strict=True))
    return {name: leaf + scale * jax.random.normal(keys[name], leaf.shape) for name, leaf in params.items()} | {
        "ends": params["ends"]
    }


def test_it_starts_straight_and_falls_between_its_end_points_whatever_its_parameters():
    t = jnp.linspace(0.0, 1.0, 101)
    first = learned_noise.learned("vp", learned_noise.init(ENDS))
    np.testing.assert_allclose(first.log_snr(t), 9 - 16 * t, atol=0.3)
    schedule = learned_noise.learned("vp", random_params())
    log_snr = schedule.log_snr(t)
    np.testing.assert_allclose(log_snr[jnp.array([0, -1])], [9.0, -7.0], atol=1e-5)
    assert (jnp.diff(log_snr) < 0).all() and jnp.abs(log_snr - (9 - 16 * t)).max() > 1
    np.testing.assert_allclose(schedule.time(log_snr), t, atol=1e-4)
    slope = (schedule.log_snr(t[1:-1] + 1e-3) - schedule.log_snr(t[1:-1] - 1e-3)) / 2e-3
    np.testing.assert_allclose(schedule.slope(t[1:-1]), slope, rtol=0.02)
    np.testing.assert_allclose(schedule.even().log_snr(t), 9 - 16 * t, rtol=1e-5, atol=1e-5)
    for grid in noise.GRIDS.values():
        np.testing.assert_allclose(grid(schedule, 8)[jnp.array([0, -1])], [-7.0, 9.0], rtol=1e-4)


def test_the_curve_follows_the_square_of_the_loss_and_the_rest_the_loss():
    def loss(w, place, rest=0):
        share, slope = place
        return w**2 * jnp.exp(share) + slope**2

    w, place = jnp.float32(0.7), (jnp.linspace(0.1, 0.9, 5), jnp.linspace(1.0, 2.0, 5))
    found = jax.grad(lambda w, p: learned_noise.of_less_variance(loss, w, p, 0).mean(), argnums=(0, 1))(w, place)
    of_mean = jax.grad(lambda w: loss(w, place).mean())(w)
    unit = loss(w, place).mean()
    of_square = jax.grad(lambda p: (loss(w, p) ** 2).mean() / 2 / unit)(place)
    np.testing.assert_allclose(found[0], of_mean, rtol=1e-5)
    for a, b in zip(found[1], of_square, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


class Biased(nn.Module):
    """The best prediction of eps for pixels that are N(0, 0.5^2), of which a share is left out around lambda = 3."""

    def __call__(self, x, log_snr, label, train=False):
        alpha, sigma = (rows(scale, x) for scale in ENDS.scales(log_snr))
        z = x * jnp.sqrt((alpha * 0.5) ** 2 + sigma**2)
        share = 1 - 0.9 * jnp.exp(-0.5 * ((rows(log_snr, x) - 3) / 0.5) ** 2)
        return share * sigma * z / (alpha**2 * 0.25 + sigma**2)


def build(network=True, **fields):
    given = dict(image=(4, 4, 1), layers=1, heads=2, width=8, curve="learned", weighting="elbo", target="eps")
    cfg = validate(diffusion.Config, given | dict(lambda_max=9.0, lambda_min=-7.0) | fields, "config.model")
    model = diffusion.from_config(cfg, {"net": Optimizer(optax.adam(2e-2))})
    return model if network else dataclasses.replace(model, network=Biased())


def batch_of(n=N):
    pixels = np.clip(np.random.default_rng(0).normal(127.5, 63.75, (n, 4, 4, 1)), 0, 255)
    return {"image": jnp.asarray(pixels, jnp.uint8), "index": jnp.arange(n), "valid": jnp.arange(n) >= 0}


@functools.cache
def rows_of_loss():
    """(parameters of the schedule, key) -> `loss` of each row in training."""
    model, batch = build(network=False), batch_of()
    return jax.jit(
        lambda params, rng: (
            model.terms({"params": {"schedule": params}}, batch, rng, step=jnp.int32(0), train=True).means["loss"].total
        )
    )


def test_the_end_points_follow_the_gradient_of_the_whole_bound():
    params, each = random_params(), rows_of_loss()
    found = jax.jit(jax.grad(lambda params: each(params, KEY).mean()))(params)["ends"]
    for i in range(2):
        there, back = (params | {"ends": params["ends"].at[i].add(step)} for step in (0.05, -0.05))
        slope = (each(there, KEY).mean() - each(back, KEY).mean()) / 0.1
        np.testing.assert_allclose(found[i], slope, rtol=0.03, atol=1e-4)


@pytest.mark.slow
def test_the_loss_is_the_bound():
    """Nats a value, in training, in evaluation, and by a curve that is not learned: the end points alone matter."""
    model, batch, n = build(network=False), batch_of(1024), 1024
    variables, keys = {"params": {"schedule": random_params()}}, jax.random.split(KEY, n)

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def terms(model, variables, rng, train):
        means = model.terms(variables, batch, rng, step=jnp.int32(0), train=train).means
        return {name: mean.total for name, mean in means.items()}

    train, found = terms(model, variables, KEY, True)["loss"].mean(), terms(model, variables, keys, False)
    np.testing.assert_allclose(train, -found["elbo"].mean() / 16, rtol=0.06)
    np.testing.assert_allclose(found["loss"].mean(), train, rtol=0.06)
    fixed = dataclasses.replace(model, schedule=Schedule("cosine", "vp", 9.0, -7.0))
    other = terms(fixed, {}, keys, False)
    for name in ("prior_kl", "rec", "elbo"):
        np.testing.assert_allclose(other[name].mean(), found[name].mean(), rtol=1e-3)
    diffusion = found["loss"] - (found["prior_kl"] + found["rec"]) / 16, other["loss"]
    deviation = math.sqrt(sum(float(each.var()) for each in diffusion) / n)
    assert abs(diffusion[0].mean() - diffusion[1].mean()) < 4 * deviation < 0.4 * train


@pytest.mark.slow
def test_training_lowers_the_variance_of_the_loss_and_moves_the_ends():
    model, batch = build(network=False), batch_of()
    params = learned_noise.init(ENDS)
    state = dataclasses.replace(jax.jit(build().init)(KEY, batch), nets={})
    state = dataclasses.replace(state, nets={"net": model.optimizer.init({"params": {"schedule": params}})})
    steps = jax.jit(lambda s: jax.lax.scan(lambda s, _: model.train_step(s, batch, KEY), s, length=150)[0])
    after = steps(state).nets["net"].params["schedule"]
    spread = [
        np.std(np.concatenate([rows_of_loss()(p | {"ends": params["ends"]}, jax.random.key(i)) for i in range(20)]))
        for p in (params, after)
    ]
    assert spread[1] < 0.7 * spread[0]
    assert float(jnp.abs(after["ends"] - params["ends"]).max()) > 0.1


@pytest.mark.slow
def test_samples_and_likelihoods_read_the_learned_curve():
    model, batch = build(), batch_of(4)
    state = jax.jit(model.init)(KEY, batch)
    net = state.nets["net"]
    moved = net.params | {"schedule": random_params(2.0) | {"ends": jnp.array([5.0, -4.0])}}
    other = dataclasses.replace(state, nets={"net": dataclasses.replace(net, params=moved)})
    draw = base.sampler(model, 4, diffusion.Sampling(steps=3))
    log_prob = jax.jit(lambda state: model.log_prob(state, batch, KEY, 1))
    assert (np.asarray(draw(state, KEY)) != np.asarray(draw(other, KEY))).any()
    assert (np.abs(log_prob(state) - log_prob(other)) > 1).all()
    assert math.isfinite(float(log_prob(other).sum()))


def test_a_learned_curve_needs_the_bound():
    with pytest.raises(Exception, match="weighting: expected 'elbo' beside curve = 'learned'"):
        build(weighting="sigmoid")
