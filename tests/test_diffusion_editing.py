"""What a diffusion does with images that are given: inversion, reconstruction, in-painting; and autoguidance."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gaussian_data import GAUSSIAN, MEAN, SCHEDULES, STD

from gen_jax.core import denoising, noise, solvers
from gen_jax.core.gradients import Optimizer
from gen_jax.core.noise import rows
from gen_jax.core.state import Net
from gen_jax.models import base, diffusion
from gen_jax.models.abilities_base import Inpaints, InvertsNoise, inpainter
from gen_jax.settings import validate

KEY, PIXEL_STD = jax.random.key(3), 0.4
SMALL = dict(image=(4, 4, 1), patch=2, layers=1, heads=2, width=8)


def build(**fields):
    cfg = validate(diffusion.Config, SMALL | fields, "config.model")
    return diffusion.from_config(cfg, {"net": Optimizer(optax.adam(1e-2))})


def batch_of(n=6):
    pixels = np.clip(np.random.default_rng(1).normal(127.5, 51, (n, 4, 4, 1)), 0, 255)
    numbers = jnp.arange(n)
    return {"image": jnp.asarray(pixels, jnp.uint8), "label": numbers % 3, "index": numbers, "valid": numbers >= 0}


class Exact(nn.Module):
    """The best prediction of eps for pixels that are N(0, std^2); the standard deviation depends on the class."""

    std: float = PIXEL_STD
    by_class: float = 0.0

    def __call__(self, x, log_snr, label, train=False):
        alpha, sigma = (rows(scale, x) for scale in SCHEDULES["vp"].scales(log_snr))
        std = self.std if label is None else self.std + self.by_class * rows(label.astype(jnp.float32), x)
        z = x * jnp.sqrt((alpha * denoising.SIGMA_DATA) ** 2 + sigma**2)
        return sigma * z / (alpha**2 * std**2 + sigma**2)


def exact(by_class=0.0, **fields):
    model = build(target="eps", **fields)
    return dataclasses.replace(model, network=Exact(by_class=by_class)), jax.jit(build(**fields).init)(KEY, batch_of())


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2)])
@pytest.mark.parametrize("scaling", ["vp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ve", "flow"))])
def test_inversion_is_of_the_order_of_its_solver(solver, order, scaling):
    """Towards noise against the closed form, and there and back against the start."""
    schedule, x = SCHEDULES[scaling], GAUSSIAN.draw(KEY, 32)
    (a0, s0), (a1, s1) = (schedule.scales(jnp.float32(end)) for end in (schedule.lambda_max, schedule.lambda_min))
    first, last = (jnp.sqrt(a**2 * STD**2 + s**2) for a, s in ((a0, s0), (a1, s1)))
    expected = a1 * MEAN + last / first * (a0 * x - a0 * MEAN)
    there, back = [], []
    for steps in (64, 128):
        grid = noise.even_log_snrs(schedule, steps)[::-1]
        travel = functools.partial(solvers.travel, GAUSSIAN.denoiser(schedule), schedule, solver=solver)
        z = jax.jit(lambda x, travel=travel, grid=grid: travel(grid, x))(a0 * x)
        again = jax.jit(lambda z, travel=travel, grid=grid: travel(grid[::-1], z))(z)
        there.append(float(jnp.sqrt((((z - expected) / last) ** 2).mean())))
        back.append(float(jnp.sqrt(((again - a0 * x) ** 2).mean())))
    assert abs(math.log2(there[0] / there[1]) - order) < 0.25
    assert back[1] < 0.6 * back[0] and back[1] < 0.1


def test_images_are_encoded_to_the_noise_that_makes_them():
    model, state = exact(by_class=0.1, num_classes=3)
    assert isinstance(model, InvertsNoise)
    batch = batch_of()
    noisy = jax.jit(model.encode_noise)(state, batch)
    std = PIXEL_STD + 0.1 * rows(batch["label"].astype(jnp.float32), noisy)
    np.testing.assert_allclose(noisy, (np.asarray(batch["image"]) / 127.5 - 1) / std, atol=0.02)
    made = np.asarray(jax.jit(model.decode_noise)(state, noisy, batch["label"]), int)
    assert (np.abs(made - np.asarray(batch["image"], int)) <= 1).all()
    again = jax.jit(model.reconstruct)(state, batch, KEY)
    np.testing.assert_array_equal(again, made)
    other = np.asarray(jax.jit(model.decode_noise)(state, noisy, (batch["label"] + 1) % 3), int)
    assert np.abs(other - made).max() > 10


@pytest.fixture(scope="module")
def inpainted():
    """(options, mask, label in the batch) -> images, of the exact model with three classes."""
    model, state = exact(by_class=0.2, num_classes=3, class_dropout=0.1)
    assert isinstance(model, Inpaints)

    def draw(mask, n=6, **options):
        return np.asarray(inpainter(model, diffusion.Sampling(steps=20, **options))(state, KEY, batch_of(n), mask))

    def sample(n, **options):
        return np.asarray(base.sampler(model, n, diffusion.Sampling(steps=20, **options))(state, KEY))

    return draw, sample


def test_known_pixels_stay_and_the_others_are_drawn(inpainted):
    draw, sample = inpainted
    image = np.asarray(batch_of()["image"])
    mask = jnp.zeros((6, 4, 4, 1)).at[:, :2].set(1.0)
    half = draw(mask, threshold="none")
    np.testing.assert_array_equal(half[:, :2], image[:, :2])
    free = sample(6, threshold="none")
    np.testing.assert_array_equal(half[:, 2:], free[:, 2:])  # pixels of this model are independent
    np.testing.assert_array_equal(draw(mask * 0, threshold="none"), free)
    np.testing.assert_array_equal(draw(mask * 0 + 1), image)


@pytest.mark.slow
def test_what_is_drawn_is_of_the_class_of_the_image(inpainted):
    draw, _ = inpainted
    none = jnp.zeros((600, 4, 4, 1))
    made = draw(none, 600, threshold="none").astype(float) / 127.5 - 1
    narrow, wide = (made[i::3].std() for i in (0, 1))
    assert narrow == pytest.approx(PIXEL_STD, rel=0.06) and wide == pytest.approx(PIXEL_STD + 0.2, rel=0.1)
    asked = draw(none, 600, threshold="none", label=0).astype(float) / 127.5 - 1
    assert asked.std() == pytest.approx(PIXEL_STD, rel=0.06)


def test_an_image_that_is_known_in_part_tells_of_the_rest():
    """All pixels are equal: with half of them known, the other half has their level."""

    class Equal(nn.Module):
        def __call__(self, x, log_snr, label, train=False):
            alpha, sigma = (rows(scale, x) for scale in SCHEDULES["vp"].scales(log_snr))
            z = x * jnp.sqrt((alpha * denoising.SIGMA_DATA) ** 2 + sigma**2)
            mean = z.mean((1, 2, 3), keepdims=True)
            clean = alpha * PIXEL_STD**2 / (alpha**2 * PIXEL_STD**2 + sigma**2 / 16) * mean
            return (z - alpha * clean) / sigma

    model, state = exact()
    model, batch = dataclasses.replace(model, network=Equal()), batch_of(8)
    batch |= {"image": jnp.broadcast_to(jnp.linspace(70, 180, 8).astype(jnp.uint8)[:, None, None, None], (8, 4, 4, 1))}
    mask = jnp.zeros((8, 4, 4, 1)).at[:, :2].set(1.0)
    options = diffusion.Sampling(steps=200, solver="ancestral", grid="log_snr", threshold="none")
    made = np.asarray(inpainter(model, options)(state, KEY, batch, mask), float)
    assert np.abs(made[:, 2:] - made[:, :2]).mean() < 10


# Autoguidance ----------------------------------------------------------------------------------------------------


def guided(guide_std):
    """A model and its guide, both exact, for pixels of other standard deviations."""
    model = build(target="eps", guide=SMALL | dict(target="eps", width=16))
    guide = dataclasses.replace(model.guide, network=Exact(guide_std))
    return dataclasses.replace(model, network=Exact(), guide=guide), jax.jit(model.init)(KEY, batch_of())


def draw(model, state, **options):
    return np.asarray(base.sampler(model, 50, diffusion.Sampling(steps=20, **options))(state, KEY), int)


def test_a_guide_that_is_the_model_changes_nothing_and_scale_1_is_off():
    (same, state), (wider, _) = guided(PIXEL_STD), guided(0.8)
    plain = draw(exact()[0], state)
    np.testing.assert_allclose(draw(same, state, guidance=3.0), plain, atol=1)
    np.testing.assert_array_equal(draw(wider, state), plain)
    led = draw(wider, state, guidance=2.0)
    assert led.std() < 0.9 * plain.std()  # away from the wider one
    np.testing.assert_array_equal(draw(wider, state, guidance=2.0, guided_from=1e6), plain)


def test_guidance_is_relative_to_the_estimate_of_the_guide():
    (model, state), z = guided(0.8), jax.random.normal(KEY, (3, 4, 4, 1))
    options, log_snr = diffusion.Sampling(guidance=2.5, threshold="none"), jnp.float32(0.5)
    own, weak = (m.denoiser({}, None)(z, log_snr) for m in (model, model.guide))
    found = model.sampled(state, {"label": None}, options)(z, log_snr)
    for a, b, c in zip(found, own, weak, strict=True):
        np.testing.assert_allclose(a, c + 2.5 * (b - c), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_guide_has_a_network_of_its_own_that_no_step_changes():
    model = build(num_classes=3, guide=SMALL | dict(num_classes=3, width=16, target="x"))
    state = jax.jit(model.init)(KEY, batch_of())
    after, _ = jax.jit(model.train_step)(state, batch_of(), KEY)
    assert state.nets["guide"].params["patches"]["kernel"].shape[-1] == 16 and state.nets["guide"].opt == ()
    for a, b in zip(jax.tree.leaves(state.nets["guide"]), jax.tree.leaves(after.nets["guide"]), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.nets["net"].params, after.nets["net"].params)
    assert any(jax.tree.leaves(moved))
    assert isinstance(state.nets["guide"], Net)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (dict(num_classes=2), "guide.num_classes: expected 0, as of the model that it guides"),
        (dict(image=(8, 8, 1)), r"guide.image: expected \(4, 4, 1\)"),
        (dict(scaling="flow"), "guide.scaling: expected 'vp'"),
        (dict(guide=SMALL), "guide.guide: expected none"),
    ],
)
def test_guides_that_do_not_fit_are_refused(guide, message):
    with pytest.raises(Exception, match=message):
        build(guide=SMALL | guide)


def test_what_guidance_needs():
    cfg = validate(diffusion.Config, SMALL | dict(guide=SMALL), "config.model")
    diffusion.Sampling(guidance=2.0).check(cfg)
    plain = validate(diffusion.Config, SMALL, "config.model")
    with pytest.raises(ValueError, match="guidance: expected 1 for a model without class_dropout or a guide"):
        diffusion.Sampling(guidance=2.0).check(plain)
