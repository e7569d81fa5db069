"""The diffusion model: its terms and likelihoods against closed forms, guidance, sampling, its networks."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core import denoising, noise, solvers
from gen_jax.core.gradients import Optimizer
from gen_jax.core.noise import Schedule, rows
from gen_jax.models import base, diffusion
from gen_jax.settings import validate

KEY, STD = jax.random.key(0), 0.4
SMALL = dict(image=(4, 4, 1), patch=2, layers=1, heads=2, width=8)
UNET = dict(net="unet", patch=1, layers=6, width=128)  # the fields of `dit` at their defaults
GUIDED = dict(num_classes=3, class_dropout=0.1)


def build(**fields):
    cfg = validate(diffusion.Config, SMALL | fields, "config.model")
    return diffusion.from_config(cfg, {"net": Optimizer(optax.adam(1e-2))})


def batch_of(n=6, image=(4, 4, 1), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *image))
    numbers = jnp.arange(n)
    return {"image": jnp.asarray(pixels, jnp.uint8), "label": numbers % 3, "index": numbers, "valid": numbers >= 0}


@functools.cache
def random():
    """A conditional model with random parameters: the network starts at 0, and would not read its label."""
    model, batch = build(num_classes=3, class_dropout=0.2), batch_of(12)
    state = jax.jit(model.init)(KEY, batch)
    net = state.nets["net"]
    return model, dataclasses.replace(state, nets={"net": dataclasses.replace(net, params=moved(net.params))})


@jax.jit
def moved(params):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    return tree.unflatten([x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)])


class Exact(nn.Module):
    """The best prediction of v for pixels that are N(0, STD^2), from the scaled input."""

    schedule: Schedule
    std: float = STD

    def __call__(self, x, log_snr, label, train=False):
        alpha, sigma = (rows(scale, x) for scale in self.schedule.scales(log_snr))
        z = x * jnp.sqrt((alpha * denoising.SIGMA_DATA) ** 2 + sigma**2)
        clean = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * z
        return alpha * (z - alpha * clean) / sigma - sigma * clean


def exact():
    model = build(target="v")
    model = dataclasses.replace(model, network=Exact(model.schedule))
    return model, jax.jit(build().init)(KEY, batch_of())


def test_the_ode_gives_the_likelihood_of_dequantized_pixels():
    """log N(x; 0, STD^2) in the mean over a level's width around the pixel, summed, in levels of 2 / 255."""
    (model, state), batch = exact(), batch_of(5)
    centre = np.asarray(batch["image"], np.float64) / 127.5 - 1
    spread = -0.5 * (centre**2 + 1 / 12 / 127.5**2) / STD**2 - math.log(STD) - 0.5 * math.log(2 * math.pi)
    expected = (spread - math.log(127.5)).reshape(5, -1).sum(1)
    found = jax.jit(lambda: model.log_prob(state, batch, KEY, 4))()
    np.testing.assert_allclose(found, expected, atol=0.1)  # of about -100 nats; the rest is the noise of the levels


def test_the_bound_is_the_integral_of_the_error_over_lambda():
    """For one image, whose squared error at each lambda is known; levels are far apart at the last lambda."""
    (model, state), n = exact(), 4096
    one = batch_of(1)
    many = {name: jnp.repeat(value, n, axis=0) for name, value in one.items()} | {"index": jnp.arange(n)}
    means = jax.jit(lambda: model.eval_step(state, many, KEY))()
    parts = {name: float(mean.total.mean()) for name, mean in means.items()}
    assert parts["elbo"] == pytest.approx(-parts["prior_kl"] - parts["rec"] - parts["diffusion"], rel=1e-5)
    x = np.asarray(one["image"], np.float64).ravel() / 127.5 - 1
    log_snr = np.linspace(-13.3, 13.3, 10_001)[:, None]
    signal, noise = 1 / (1 + np.exp(-log_snr)), 1 / (1 + np.exp(log_snr))
    kept = noise / (signal * STD**2 + noise)  # of x in x - E[x | z]
    error = signal / noise * kept**2 * x**2 + (signal * STD**2 / (signal * STD**2 + noise)) ** 2
    expected = 0.5 * np.trapezoid(error.sum(1), log_snr[:, 0])
    deviation = float(means["diffusion"].total.std()) / math.sqrt(n)
    assert abs(parts["diffusion"] - expected) < 4 * deviation and deviation < 0.02 * expected
    apart, n01 = 2 / 255 * np.exp(13.3 / 2), np.linspace(-8, 8, 4001)  # between levels, in units of sigma
    confused = np.log1p(np.exp(-(apart**2) / 2 - apart * n01) + np.exp(-(apart**2) / 2 + apart * n01))
    rec = 16 * np.trapezoid(confused * np.exp(-(n01**2) / 2), n01) / math.sqrt(2 * math.pi)
    assert parts["rec"] == pytest.approx(rec, rel=0.3) and 0 <= parts["prior_kl"] < 1e-3


def test_guidance_at_1_is_conditional_and_at_0_unconditional():
    model, state = random()

    def draw(**options):
        asked = diffusion.Sampling(steps=4, **options)
        return np.asarray(base.sampler(model, 4, asked)(state, KEY), int)

    plain, guided = draw(label=2), draw(label=2, guidance=3.0)
    assert (np.abs(draw(label=2, guidance=1.0 + 1e-6) - plain) <= 1).all()
    assert (np.abs(draw(label=2, guidance=0.0) - draw(label="none")) <= 1).all()
    assert np.abs(guided - plain).max() > 1 and np.abs(draw(label="none") - plain).max() > 1
    for interval in (dict(guided_from=1e6), dict(guided_to=-1e6)):
        assert (np.abs(draw(label=2, guidance=3.0, **interval) - plain) <= 1).all()
    part = draw(label=2, guidance=3.0, guided_from=-2.0, guided_to=2.0)
    assert np.abs(part - plain).max() > 1 and np.abs(part - guided).max() > 1


@pytest.mark.parametrize("solver", ["dpm_solver", "ancestral"])
def test_samples_are_the_same_in_a_loop_step_by_step_and_in_any_company(solver, monkeypatch):
    model, state = random()
    options = diffusion.Sampling(steps=5, solver=solver)
    loop = jax.jit(lambda: model.sample(state, KEY, 6, options))()
    monkeypatch.setattr(base.ops, "convolves", lambda jaxpr: True)
    done = []
    stepped = base.sampler(model, 6, options, lambda step, steps: done.append((step, steps)))(state, KEY)
    assert done == [(i, 5) for i in range(5)]
    np.testing.assert_array_equal(loop, stepped)
    np.testing.assert_allclose(np.asarray(base.sampler(model, 3, options)(state, KEY), int), loop[:3], atol=1)


def test_the_model_walks_as_the_solver_does():
    """With fresh noise in each step, and with the estimate of the step before, it reaches the moments of the data."""
    model, state = exact()
    for solver, steps, grid, tolerance in (
        ("ancestral", 200, "log_snr", 0.06),
        ("dpm_solver", 30, "log_snr", 0.02),
        ("dpm_solver", 10, "time", 0.1),  # the last step is nine times as wide as the one before
    ):
        options = diffusion.Sampling(solver=solver, steps=steps, threshold="none", grid=grid)
        found = np.asarray(base.sampler(model, 2000, options)(state, KEY), float) / 127.5 - 1
        assert found.std() == pytest.approx(STD, rel=tolerance), (solver, grid)


def test_averaged_parameters_are_what_samples_and_likelihoods_read():
    model, batch = dataclasses.replace(build(), optimizer=Optimizer(optax.adam(1e-2), ema_decay=0.9)), batch_of()
    state = jax.jit(model.init)(KEY, batch)
    net = state.nets["net"]
    other = jax.tree.map(lambda leaf: leaf + 0.3, net.params)
    live = dataclasses.replace(state, nets={"net": dataclasses.replace(net, params=other)})
    ema = dataclasses.replace(state, nets={"net": dataclasses.replace(net, ema=net.ema | {"params": other})})
    draw = base.sampler(model, 2, diffusion.Sampling(steps=3))
    log_prob = jax.jit(lambda state: model.log_prob(state, batch, KEY, 1))
    for read in (draw, log_prob):
        plain, unread, averaged = (np.asarray(read(s, KEY) if read is draw else read(s)) for s in (state, live, ema))
        np.testing.assert_array_equal(plain, unread)
        assert not np.allclose(plain, averaged)


def test_temperature_and_thresholds_reach_the_samples():
    (model, state), options = exact(), dict(steps=100, threshold="none")
    wide, narrow, still = (
        np.asarray(base.sampler(model, 500, diffusion.Sampling(temperature=t, **options))(state, KEY), float)
        for t in (1.0, 0.5, 0.0)
    )
    assert wide.std() / 127.5 == pytest.approx(STD, rel=0.05)
    assert narrow.std() == pytest.approx(wide.std() / 2, rel=0.05)
    assert (still == 128).all()
    far = dataclasses.replace(model, network=Exact(model.schedule, 2.0))  # data beyond the range of pixels
    estimates = []
    for threshold in ("none", "static", "dynamic"):
        asked = diffusion.Sampling(steps=4, threshold=threshold)
        carry = far.sample_init(state, KEY, 50, asked)
        for i in range(4):
            carry = far.sample_step(state, carry, jnp.int32(i), asked)
        estimates.append(np.abs(carry["walk"].x))
    none, static, dynamic = estimates
    assert none.max() > 2 and static.max() == dynamic.max() == 1
    assert (static == 1).mean() > 0.3 and (dynamic == 1).mean() < 0.1  # clipped, and scaled


def test_the_class_is_left_out_in_its_share_of_training_and_never_in_evaluation():
    seen, trains = [], []

    class Spy(nn.Module):
        def __call__(self, x, log_snr, label, train=False, **_):
            trains.append(train)
            jax.debug.callback(lambda label: seen.append(np.asarray(label)), label)
            return x

    model = dataclasses.replace(build(num_classes=3, class_dropout=0.25), network=Spy())
    terms = jax.jit(
        lambda batch, rng, train: model.terms({}, batch, rng, step=jnp.int32(0), train=train), static_argnums=2
    )
    batch = batch_of(4000)
    jax.block_until_ready(terms(batch, KEY, True))
    jax.effects_barrier()
    label = seen.pop()
    assert (label == 3).mean() == pytest.approx(0.25, abs=0.03)
    assert (label[label < 3] == np.asarray(batch["label"])[label < 3]).all()
    jax.block_until_ready(terms(batch_of(8), jax.random.split(KEY, 8), False))
    jax.effects_barrier()
    assert all((label == np.arange(8) % 3).all() for label in seen) and len(seen) == 2
    assert trains == [True, False, False]  # with dropout, and without


@pytest.mark.parametrize("fields", [{}, dict(curve="log_linear", scaling="ve"), dict(curve="flow", scaling="flow")])
def test_the_network_sees_inputs_of_variance_1(fields):
    model, variances = build(**fields), []

    class Spy(nn.Module):
        def __call__(self, x, log_snr, label, train=False, **_):
            variances.append(float(x.var()))
            return x

    model = dataclasses.replace(model, network=Spy())
    x, eps = jax.random.normal(KEY, (2, 500, 4, 4, 1))
    for log_snr in (-8.0, 0.0, 8.0):
        each = jnp.full(500, log_snr)
        model.call({}, noise.diffuse(model.schedule, 0.5 * x, each, eps), each, None)
    np.testing.assert_allclose(variances, 1.0, rtol=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(patch=3), "patch: expected image sides divisible by 3, got 4, 4"),
        (dict(width=9), "heads: expected a divisor of the channels that attend, "),
        (dict(widths=(8, 8)), "widths: expected no value beside net = 'dit'"),
        (dict(net="unet", layers=1), "layers: expected no value beside net = 'unet'"),
        (dict(lambda_max=-20.0), "lambda_max: expected more than lambda_min"),
        (dict(class_dropout=0.1), "class_dropout: expected 0 for a model without classes"),
        (dict(times="edm"), "times: expected 'uniform' beside weighting = 'sigmoid'"),
        (UNET | dict(widths=()), "widths: expected at least one"),
        (UNET | dict(attention=(3,)), "attention: expected heights of maps, none is 3"),
        (UNET | dict(attention=(4,), heads=3), "heads: expected a divisor of the channels that attend"),
        (dict(lambda_min=-21.0), "greater than or equal to -20"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        validate(diffusion.Config, SMALL | fields, "config.model")


@pytest.mark.parametrize(
    ("options", "model", "message"),
    [
        (dict(guidance=2.0), dict(num_classes=3), "guidance: expected 1 for a model without class_dropout or a guide"),
        (dict(label="none"), dict(num_classes=3), "label: expected 'each' or a class below 3"),
        (dict(label=3), GUIDED, "label: expected 'each' or a class below 3, got 3"),
        (dict(label="none", guidance=2.0), GUIDED, "guidance: expected 1 beside label = 'none'"),
        (dict(guided_from=0.0), GUIDED, "guided_from: expected none beside guidance = 1"),
        (dict(guidance=2.0, guided_from=1.0, guided_to=0.0), GUIDED, "guided_to: expected more than guided_from = 1"),
    ],
)
def test_what_a_model_cannot_sample_is_refused(options, model, message):
    cfg = validate(diffusion.Config, SMALL | model, "config.model")
    with pytest.raises(ValueError, match=message):
        diffusion.Sampling(**options).check(cfg)


def test_a_schedule_a_target_and_a_solver_of_ones_own_are_one_line_each(monkeypatch):
    """Each is a function under its name. The model takes it by that, and still draws what the data are."""
    own = noise.Curve(lambda s: -s * jnp.abs(s), lambda log_snr: -jnp.sign(log_snr) * jnp.sqrt(jnp.abs(log_snr)))
    monkeypatch.setitem(noise.CURVES, "quadratic", own)
    monkeypatch.setitem(denoising.TARGETS, "minus_v", lambda alpha, sigma: (sigma, -alpha))
    monkeypatch.setitem(solvers.SOLVERS, "again", lambda denoiser, walk, step: solvers.ddim(denoiser, walk, step))
    monkeypatch.setitem(denoising.WEIGHTINGS, "half", lambda log_snr, slope: 0.5 * jnp.ones_like(log_snr))
    model, state = exact()

    class Minus(Exact):
        def __call__(self, *inputs, **options):
            return -super().__call__(*inputs, **options)

    schedule = dataclasses.replace(model.schedule, curve="quadratic")
    mine = dataclasses.replace(model, network=Minus(model.schedule), target="minus_v", schedule=schedule)
    options = diffusion.Sampling(steps=200, solver="ddim", threshold="none")
    drawn = np.asarray(base.sampler(mine, 500, options.model_copy(update={"solver": "again"}))(state, KEY), float)
    assert drawn.std() / 127.5 == pytest.approx(STD, rel=0.05)
    same = dataclasses.replace(model, schedule=schedule)
    expected = base.sampler(same, 500, options)(state, KEY)
    np.testing.assert_allclose(drawn, expected, atol=1)
    few = options.model_copy(update={"steps": 4})
    here, there = (np.asarray(base.sampler(each, 50, few)(state, KEY), int) for each in (same, model))
    assert np.abs(here - there).max() > 1  # the curve says where the steps are
    losses = [
        jax.jit(dataclasses.replace(mine, weighting=name).eval_step)(state, batch_of(), KEY)["loss"].total
        for name in ("half", "simple")
    ]
    np.testing.assert_allclose(losses[0], losses[1] / 2, rtol=1e-5)
