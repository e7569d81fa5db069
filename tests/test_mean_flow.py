"""The model of average velocities: flow matching at r = t, guidance in training, samples in one evaluation."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gaussian_data import average_velocity

from gen_jax.core import ops
from gen_jax.core.gradients import Optimizer
from gen_jax.core.noise import rows
from gen_jax.core.state import Net, State
from gen_jax.models import base, diffusion, mean_flow
from gen_jax.settings import validate

KEY, MEAN, STD = jax.random.key(0), 0.1, 0.3
SMALL = dict(image=(4, 4, 1), patch=2, layers=1, heads=2, width=8)


def build(model: Any = mean_flow, **fields):
    cfg = validate(model.Config, SMALL | fields, "config.model")
    return model.from_config(cfg, {"net": Optimizer(optax.adam(1e-2))})


def batch_of(n=6, seed=0):
    pixels, numbers = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 1)), jnp.arange(n)
    return {"image": jnp.asarray(pixels, jnp.uint8), "label": numbers % 3, "index": numbers, "valid": numbers >= 0}


@functools.cache
def random():
    """A conditional model with random parameters: the network starts at 0, and would not read its label."""
    model = build(num_classes=3, class_dropout=0.2)
    variables = jax.jit(model.init_variables)(KEY, batch_of())
    leaves, tree = jax.tree.flatten(variables["params"])
    keys = jax.random.split(KEY, len(leaves))
    leaves = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model, state_of(tree.unflatten(leaves))


def state_of(params, ema=None):
    return State(jnp.int32(0), {"net": Net(params, (), {}, ema and {"params": ema, "stats": {}})})


class Weight(nn.Module):
    """weight * z, of z as it is, or as diffusion scales it."""

    schedule: Any = None

    @nn.compact
    def __call__(self, z, level, label, train=False):
        if self.schedule:
            alpha, sigma = (rows(scale, z) for scale in self.schedule.scales(level))
            z = z * jnp.sqrt((alpha / 2) ** 2 + sigma**2)
        return self.param("weight", nn.initializers.ones, (4, 4, 1)) * z


@pytest.mark.parametrize("objective", ["mean_flow", "shortcut"])
def test_where_r_is_t_it_is_flow_matching(objective):
    """The loss and the gradient are those of the diffusion with target u, weighed as its error."""
    flow = dict(curve="flow", scaling="flow", target="u", weighting="u", lambda_max=20.0, lambda_min=-20.0)
    there = build(diffusion, **flow, times="logit_normal")
    there = dataclasses.replace(there, network=Weight(there.schedule))
    here = dataclasses.replace(build(objective=objective, instant=1.0, adaptive=0.0), network=Weight())
    params = {"weight": jax.random.normal(KEY, (4, 4, 1))}

    @functools.partial(jax.jit, static_argnums=0)
    def loss_and_gradients(model, params):
        def loss(params):
            terms = model.terms({"params": params}, batch_of(16), KEY, step=jnp.int32(0), train=True)
            return terms.means["loss"].total

        return loss(params), jax.jacrev(loss)(params)["weight"]

    found, expected = (loss_and_gradients(model, params) for model in (here, there))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-3)


class Exact(nn.Module):
    """The average velocity of pixels that are N(MEAN, STD^2)."""

    def __call__(self, z, levels, label, train=False):
        t = levels[:, 0] / mean_flow.SPAN + 0.5
        return average_velocity(z, t, t - levels[:, 1] / mean_flow.SPAN, MEAN, STD)


def test_samples_of_the_exact_average_velocity_have_the_moments_of_the_data():
    model = dataclasses.replace(build(), network=Exact())

    def draw(**options):
        asked = mean_flow.Sampling(**options)
        return np.asarray(base.sampler(model, 500, asked)(state_of({}), KEY), float) / 127.5 - 1

    one = draw()
    assert one.mean() == pytest.approx(MEAN, abs=0.02) and one.std() == pytest.approx(STD, rel=0.03)
    assert np.abs(draw(steps=3) - one).max() < 3 / 127.5  # where one step leads, three do
    assert draw(temperature=0.5).std() == pytest.approx(STD / 2, rel=0.03)


@pytest.mark.parametrize("objective", ["mean_flow", "shortcut"])
def test_the_exact_average_velocity_is_the_best_prediction(objective):
    """On intervals its error is that of eps - x given z alone; a wrong prediction adds to it."""
    model = dataclasses.replace(build(objective=objective, instant=0.0, adaptive=0.0), network=Exact())
    pixels = MEAN + STD * jax.random.normal(KEY, (512, 4, 4, 1))
    batch = batch_of(512) | {"image": jnp.clip(jnp.round((pixels + 1) * 127.5), 0, 255).astype(jnp.uint8)}

    class Wrong(Exact):
        shift: Any = 0.0

        def __call__(self, z, levels, label, train=False):
            return super().__call__(z, levels, label) + self.shift * rows(levels[:, 1], z)

    @jax.jit
    def error(shift):
        off = dataclasses.replace(model, network=Wrong(shift))
        return off.terms({}, batch, KEY, step=jnp.int32(0), train=True).means["error"].total.mean()

    assert error(0.0) < min(error(0.03), error(-0.03))


class ByLabel(nn.Module):
    """1 without a class, 0 with one."""

    def __call__(self, z, levels, label, train=False):
        return jnp.where(rows(label == 3, z), 1.0, 0.0) + 0 * z


def test_guidance_moves_the_velocity_of_examples_with_a_class():
    batch, noise = batch_of(8), ops.normal(ops.split(KEY, 5)[1], (8, 4, 4, 1))
    v = noise - ops.to_signed(batch["image"])

    def errors(class_dropout, **fields):
        fields |= dict(num_classes=3, class_dropout=class_dropout, instant=1.0, adaptive=0.0)
        model = dataclasses.replace(build(**fields), network=ByLabel())
        return model.terms({}, batch, KEY, step=jnp.int32(0), train=True).means["loss"].total

    def squares(x):
        return (x**2).mean((1, 2, 3))

    np.testing.assert_allclose(errors(1e-9), squares(v), rtol=1e-5)
    np.testing.assert_allclose(errors(1e-9, guidance=3.0), squares(1 + 3 * (v - 1)), rtol=1e-5)
    np.testing.assert_allclose(errors(1.0, guidance=3.0), squares(1 - v), rtol=1e-5)


def test_a_sample_does_not_depend_on_its_company_and_follows_its_class():
    model, state = random()

    def draw(n, **options):
        return np.asarray(base.sampler(model, n, mean_flow.Sampling(**options))(state, KEY), int)

    six = draw(6, steps=2)
    np.testing.assert_allclose(draw(3, steps=2), six[:3], atol=1)
    ones = draw(6, steps=2, label=1)
    np.testing.assert_allclose(ones[[1, 4]], six[[1, 4]], atol=1)
    assert np.abs(ones[0] - six[0]).max() > 1
    assert np.abs(draw(6, steps=2, label="none") - six).max() > 1
    assert np.abs(draw(6) - six).max() > 1


def test_averaged_parameters_are_what_samples_read():
    model, state = random()
    params = state.nets["net"].params
    zeros = jax.tree.map(jnp.zeros_like, params)
    draw = base.sampler(model, 2, mean_flow.Sampling())
    plain, averaged, still = (draw(one, KEY) for one in (state, state_of(zeros, params), state_of(params, zeros)))
    np.testing.assert_array_equal(plain, averaged)
    assert not np.array_equal(plain, still)


def test_the_adaptive_weight_is_in_the_loss():
    model, state = random()

    plain, whole = (
        jax.jit(dataclasses.replace(model, adaptive=power).eval_step)(state, batch_of(), KEY) for power in (0.0, 1.0)
    )
    np.testing.assert_allclose(plain["loss"].total, plain["error"].total)
    np.testing.assert_allclose(whole["error"].total, plain["error"].total, rtol=1e-4)
    np.testing.assert_allclose(whole["loss"].total, 1.0, rtol=0.02)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            dict(guidance=2.0, num_classes=3),
            "guidance: expected 1 for a model without class_dropout or caption_dropout",
        ),
        (dict(instant=1.5), "instant"),
        (dict(objective="reflow"), "objective"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        validate(mean_flow.Config, SMALL | fields, "config.model")


@pytest.mark.parametrize(
    ("options", "model"),
    [(dict(label="none"), dict(num_classes=3)), (dict(label=3), dict(num_classes=3)), (dict(label=0), {})],
)
def test_what_a_model_cannot_sample_is_refused(options, model):
    with pytest.raises(ValueError, match=r"^label: expected"):
        mean_flow.Sampling(**options).check(validate(mean_flow.Config, SMALL | model, "config.model"))
