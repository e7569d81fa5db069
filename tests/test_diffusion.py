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

from gen_jax.core import denoising, solvers
from gen_jax.core.gradients import Optimizer
from gen_jax.core.noise import Schedule, rows
from gen_jax.models import base, diffusion
from gen_jax.nets.dit import DiT
from gen_jax.nets.unet import UNet
from gen_jax.settings import validate

KEY, STD = jax.random.key(0), 0.4
SMALL = dict(image=(4, 4, 1), patch=2, layers=1, heads=2, width=8)


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
    leaves, tree = jax.tree.flatten(net.params)
    keys = jax.random.split(KEY, len(leaves))
    params = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model, dataclasses.replace(state, nets={"net": dataclasses.replace(net, params=tree.unflatten(params))})


class Exact(nn.Module):
    """The best prediction of v for pixels that are N(0, STD^2), from the scaled input."""

    schedule: Schedule

    def __call__(self, x, log_snr, label, train=False):
        alpha, sigma = (rows(scale, x) for scale in self.schedule.scales(log_snr))
        z = x * jnp.sqrt((alpha * denoising.SIGMA_DATA) ** 2 + sigma**2)
        clean = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * z
        return alpha * (z - alpha * clean) / sigma - sigma * clean


def exact():
    model = build(target="v")
    model = dataclasses.replace(model, network=Exact(model.schedule))
    return model, jax.jit(build().init)(KEY, batch_of())


def test_the_ode_gives_the_likelihood_of_dequantized_pixels():
    """log N(x; 0, STD^2) in the mean over a level's width, summed over pixels, in levels of 2 / 256."""
    (model, state), batch = exact(), batch_of(5)
    centre = (np.asarray(batch["image"], np.float64) + 0.5) / 128 - 1
    spread = -0.5 * (centre**2 + 1 / 12 / 128**2) / STD**2 - math.log(STD) - 0.5 * math.log(2 * math.pi)
    expected = (spread - math.log(128)).reshape(5, -1).sum(1)
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
    outside = draw(label=2, guidance=3.0, guided_from=1e6)
    assert (np.abs(outside - plain) <= 1).all()


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


def test_temperature_and_clipping_reach_the_samples():
    (model, state), options = exact(), dict(steps=100, clip=False)
    wide, narrow, none = (
        np.asarray(base.sampler(model, 500, diffusion.Sampling(temperature=t, **options))(state, KEY), float)
        for t in (1.0, 0.5, 0.0)
    )
    assert wide.std() / 127.5 == pytest.approx(STD, rel=0.05)
    assert narrow.std() == pytest.approx(wide.std() / 2, rel=0.05)
    assert (none == 128).all()


def test_the_class_is_left_out_in_its_share_of_training_and_never_in_evaluation():
    seen = []

    class Spy(nn.Module):
        def __call__(self, x, log_snr, label, train=False, **_):
            jax.debug.callback(lambda label: seen.append(np.asarray(label)), label)
            return x

    model = dataclasses.replace(build(num_classes=3, class_dropout=0.25), network=Spy())
    batch = batch_of(4000)
    model.terms({}, batch, KEY, step=jnp.int32(0), train=True)
    jax.effects_barrier()
    label = seen.pop()
    assert (label == 3).mean() == pytest.approx(0.25, abs=0.03)
    assert (label[label < 3] == np.asarray(batch["label"])[label < 3]).all()
    model.terms({}, batch_of(8), jax.random.split(KEY, 8), step=jnp.int32(0), train=False)
    jax.effects_barrier()
    assert all((label == np.arange(8) % 3).all() for label in seen) and len(seen) == 2


@pytest.mark.parametrize("curve", ["cosine", "log_linear"])
def test_the_network_sees_inputs_of_variance_1(curve):
    model = build(curve=curve, scaling="ve" if curve == "log_linear" else "vp")
    variances = []

    class Spy(nn.Module):
        def __call__(self, x, log_snr, label, train=False, **_):
            variances.append(float(x.var()))
            return x

    model = dataclasses.replace(model, network=Spy())
    for log_snr in (-8.0, 0.0, 8.0):
        alpha, sigma = model.schedule.scales(jnp.float32(log_snr))
        z = jnp.sqrt((alpha * 0.5) ** 2 + sigma**2) * jax.random.normal(KEY, (500, 4, 4, 1))
        model._call({}, z, jnp.full(500, log_snr), None)
    np.testing.assert_allclose(variances, 1.0, rtol=0.05)


NETS = {
    "dit": DiT(patch=2, layers=2, heads=2, width=8, num_classes=3),
    "unet": UNet(widths=(8, 16), blocks=1, attention=(2,), heads=2, num_classes=3),
}


@pytest.mark.parametrize("name", NETS)
def test_a_network_starts_at_zero_and_reads_all_its_inputs(name):
    net = NETS[name]
    x, log_snr, label = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.array([-3.0, 2.0]), jnp.array([0, 1])
    variables = jax.jit(net.init)(KEY, x, log_snr, label)
    apply = jax.jit(net.apply)
    assert (apply(variables, x, log_snr, label) == 0).all()
    random = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), variables)
    plain = apply(random, x, log_snr, label)
    assert plain.shape == x.shape and plain.dtype == jnp.float32
    for changed in ((x + 1e-1, log_snr, label), (x, log_snr + 1, label), (x, log_snr, label + 1)):
        assert (jnp.abs(apply(random, *changed) - plain).reshape(2, -1).max(1) > 1e-4).all()
    alone = apply(random, x[1:], log_snr[1:], label[1:])  # rows do not meet
    np.testing.assert_allclose(alone, plain[1:], rtol=1e-4, atol=1e-5)


def test_scanned_layers_are_unrolled_ones():
    x, log_snr = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.array([-3.0, 2.0])
    plain = DiT(patch=2, layers=2, heads=2, width=8)
    variables = plain.init(KEY, x, log_snr)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), variables["params"])
    blocks = params["blocks"]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), blocks["block_0"], blocks["block_1"])
    scanned = plain.clone(scan_layers=True, remat="full")
    found = scanned.apply({"params": params | {"blocks": {"layers": stacked}}}, x, log_snr)
    np.testing.assert_allclose(found, plain.apply({"params": params}, x, log_snr), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(patch=3), "patch: expected image sides divisible by 3, got 4, 4"),
        (dict(width=9), "heads: expected a divisor of the channels that attend, "),
        (dict(widths=(8, 8)), "widths: expected no value beside net = 'dit'"),
        (dict(net="unet", patch=1), "patch: expected no value beside net = 'unet'"),
        (dict(lambda_max=-20.0), "lambda_max: expected more than lambda_min"),
        (dict(class_dropout=0.1), "class_dropout: expected 0 for a model without classes"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        validate(diffusion.Config, SMALL | fields, "config.model")


@pytest.mark.parametrize(
    ("options", "model", "message"),
    [
        (dict(guidance=2.0), dict(num_classes=3), "guidance: expected 1 for a model without class_dropout"),
        (dict(label="none"), dict(num_classes=3), "label: expected 'each' or a class below 3"),
        (dict(label=3), dict(num_classes=3, class_dropout=0.1), "label: expected 'each' or a class below 3, got 3"),
    ],
)
def test_what_a_model_cannot_sample_is_refused(options, model, message):
    cfg = validate(diffusion.Config, SMALL | model, "config.model")
    with pytest.raises(ValueError, match=message):
        diffusion.Sampling(**options).check(cfg)


def test_a_weighting_a_target_and_a_solver_of_ones_own_are_one_line(monkeypatch):
    """Each is a function under its name; the model takes it by that."""
    monkeypatch.setitem(denoising.WEIGHTINGS, "half", lambda log_snr, slope: 0.5 * jnp.ones_like(log_snr))
    monkeypatch.setitem(solvers.SOLVERS, "again", lambda denoiser, walk, step: solvers.ddim(denoiser, walk, step))
    minus = denoising.Target(lambda alpha, sigma: (jnp.zeros_like(alpha), -jnp.ones_like(alpha)))
    monkeypatch.setitem(denoising.TARGETS, "minus_eps", minus)
    model, batch = build(weighting="simple", target="eps"), batch_of()
    state = jax.jit(model.init)(KEY, batch)
    own = dataclasses.replace(model, weighting="half", target="minus_eps")
    here, there = (jax.jit(one.eval_step)(state, batch, KEY)["loss"].total for one in (model, own))
    np.testing.assert_allclose(there, here / 2, rtol=1e-5)  # the network's output is 0 at first
    options = diffusion.Sampling(steps=3, solver="ddim")
    same = options.model_copy(update={"solver": "again"})
    draws = [base.sampler(model, 2, each)(state, KEY) for each in (options, same)]
    np.testing.assert_array_equal(*draws)
