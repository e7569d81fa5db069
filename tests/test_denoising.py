"""Targets, weightings, times and the bound, against each other and against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_data import GAUSSIAN, SCHEDULES

from gen_jax.core import bound as bounds
from gen_jax.core import denoising, learned_noise, noise
from gen_jax.core.noise import Schedule, rows

KEY = jax.random.key(0)


def pair(schedule, n=6):
    x, eps = jax.random.normal(KEY, (2, n, 3, 2))
    log_snr = jnp.linspace(schedule.lambda_min + 4, schedule.lambda_max - 4, n)
    return x, eps, log_snr, noise.diffuse(schedule, x, log_snr, eps)


@pytest.mark.parametrize("name", denoising.TARGETS)
@pytest.mark.parametrize("scaling", SCHEDULES)
def test_a_target_gives_back_x_and_eps(name, scaling):
    schedule = SCHEDULES[scaling]
    x, eps, log_snr, z = pair(schedule)
    y = denoising.target(name, schedule, x, eps, log_snr)
    found = denoising.denoised(name, schedule, z, y, log_snr)
    np.testing.assert_allclose(found.x, x, atol=2e-4)
    np.testing.assert_allclose(found.eps, eps, atol=2e-4)


def test_targets_are_the_published_ones():
    schedule = SCHEDULES["vp"]
    x, eps, log_snr, z = pair(schedule)
    alpha, sigma = (rows(scale, x) for scale in schedule.scales(log_snr))
    made = {name: denoising.target(name, schedule, x, eps, log_snr) for name in denoising.TARGETS}
    np.testing.assert_allclose(made["v"], alpha * eps - sigma * x, rtol=1e-5)
    np.testing.assert_allclose(made["u"], eps - x, rtol=1e-5)
    np.testing.assert_allclose(made["score"], (alpha * x - z) / sigma**2, rtol=2e-3, atol=1e-4)
    x, eps, log_snr, z = pair(schedule := SCHEDULES["ve"])
    s = jnp.exp(-rows(log_snr, x) / 2)
    skip, out = 0.25 / (s**2 + 0.25), s * 0.5 / jnp.sqrt(s**2 + 0.25)
    y = denoising.target("edm", schedule, x, eps, log_snr)
    np.testing.assert_allclose(skip * z + out * y, x, atol=1e-4)


@pytest.mark.parametrize("scaling", SCHEDULES)
def test_gradients_agree_under_all_targets_with_converted_weights(scaling):
    """One parameter moves the estimate of eps along a direction; each target sees its own error of it."""
    schedule = SCHEDULES[scaling]
    x, eps, log_snr, z = pair(schedule)
    direction = jax.random.normal(jax.random.key(5), eps.shape)

    def loss(amount, name):
        moved = eps + amount * direction
        alpha, sigma = (rows(scale, z) for scale in schedule.scales(log_snr))
        found = denoising.target(name, schedule, (z - sigma * moved) / alpha, moved, log_snr)
        error = (found - denoising.target(name, schedule, x, eps, log_snr)) ** 2
        return (rows(denoising.error_ratio(name, schedule, log_snr), error) * error).mean()

    gradients = [jax.grad(loss)(0.3, name) for name in denoising.TARGETS]
    np.testing.assert_allclose(gradients, gradients[1], rtol=1e-5)


def test_weightings_are_the_published_ones():
    log_snr, slope = jnp.array([-6.0, 0.0, 1.0, 6.0]), jnp.array([-2.0, -3.0, -4.0, -5.0])
    snr = np.exp(log_snr)
    found = {name: np.asarray(weight(log_snr, slope)) for name, weight in denoising.WEIGHTINGS.items()}
    of_x = {name: weight * snr for name, weight in found.items()}  # as factors of the squared error of x
    np.testing.assert_allclose(found["simple"], 1.0)
    np.testing.assert_allclose(of_x["x"], 1.0, rtol=1e-6)
    for name, scaling in (("v", "vp"), ("u", "flow")):
        ratio = denoising.error_ratio(name, Schedule("flow", scaling), log_snr)
        np.testing.assert_allclose(found[name] * ratio, 1.0, rtol=1e-5)
    np.testing.assert_allclose(of_x["snr"], np.maximum(snr, 1), rtol=1e-6)
    np.testing.assert_allclose(of_x["min_snr"], np.minimum(snr, 5), rtol=1e-6)
    np.testing.assert_allclose(of_x["edm"], (1 / snr + 0.25) / (1 / snr * 0.25), rtol=1e-5)
    np.testing.assert_allclose(found["elbo"], [1.0, 1.5, 2.0, 2.5])
    np.testing.assert_allclose(found["sigmoid"], found["elbo"] / (1 + np.exp(log_snr - 2)), rtol=1e-6)


def test_times_have_their_densities():
    schedule, n = Schedule("log_linear", "ve", 14.0, -14.0), 4000
    uniform = np.sort(denoising.TIMES["uniform"](schedule, KEY, n))
    np.testing.assert_allclose(np.diff(uniform), 1 / n, rtol=1e-2)  # evenly spaced from one key
    each = denoising.TIMES["uniform"](schedule, jax.random.split(KEY, n), n)
    assert abs(each.mean() - 0.5) < 0.02 and abs(each.std() - 12**-0.5) < 0.02
    logits = jax.scipy.special.logit(denoising.TIMES["logit_normal"](schedule, KEY, n))
    assert abs(logits.mean()) < 0.05 and abs(logits.std() - 1) < 0.05
    log_sigma = -schedule.log_snr(denoising.TIMES["edm"](schedule, KEY, n)) / 2
    assert abs(log_sigma.mean() + 1.2) < 0.06 and abs(log_sigma.std() - 1.2) < 0.06


def bound(schedule, n=4000):
    """The three terms for Gaussian data with its best denoiser, nats an example.

    All is quadratic in x and eps, so the means over them are those over two points each; t is on a grid.
    """
    a, b = jnp.array([1.0, 1.0, -1.0, -1.0]), jnp.array([1.0, -1.0, 1.0, -1.0])
    x = jnp.tile(GAUSSIAN.centres[0] + GAUSSIAN.std * a[:, None], (n, 1))  # [4 n, 2]
    eps = jnp.tile(jnp.stack([b, b], 1), (n, 1))
    t = jnp.repeat((jnp.arange(n) + 0.5) / n, 4)
    log_snr = schedule.log_snr(t)
    z = noise.diffuse(schedule, x, log_snr, eps)
    found = GAUSSIAN.denoiser(schedule)(z, rows(log_snr, z))
    terms = (
        bounds.prior_kl(schedule, x),
        -bounds.density_log_prob(schedule, eps),
        bounds.diffusion_loss(eps, found.eps, schedule.slope(t)),
    )
    return [float(term.mean()) for term in terms]


def test_the_bound_of_the_best_denoiser_is_the_entropy():
    """The diffusion term is the same for schedules with the same end points of lambda (Kingma et al. 2021, eq. 18)."""
    params = learned_noise.init(Schedule("learned", "vp", 12.0, -12.0))
    learned = learned_noise.learned("vp", params | {"heights": params["heights"] + jnp.linspace(-2.0, 2.0, 16)})
    terms = [
        bound(one) for one in (*(Schedule(curve, "vp", 12.0, -12.0) for curve in ("cosine", "log_linear")), learned)
    ]
    entropy = float(jnp.log(GAUSSIAN.std).sum()) + math.log(2 * math.pi * math.e)
    for each in terms:
        assert abs(sum(each) - entropy) / 2 / math.log(2) < 3e-3
    for each in terms[1:]:
        assert abs(terms[0][2] - each[2]) / 2 / math.log(2) < 3e-3


def test_levels_are_a_distribution_given_z():
    """Of five levels, from the z that each gives with the noise that leads there."""
    schedule, grid = Schedule("cosine", "vp", 2.0, -6.0), jnp.linspace(-1.0, 1.0, 5)
    alpha, sigma = schedule.scales(jnp.float32(2.0))
    eps = (0.3 - alpha * grid) / sigma  # z = 0.3 from each level
    log_probs = bounds.level_log_prob(schedule, grid[:, None], eps[:, None], 5)
    np.testing.assert_allclose(jnp.exp(log_probs).sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(jnp.diff(log_probs), jnp.diff(-0.5 * eps**2), rtol=1e-4, atol=1e-5)


def test_the_prior_term_is_a_divergence_of_gaussians():
    x = jnp.array([[0.5, -1.0], [2.0, 0.0]])
    schedule = Schedule("cosine", "vp", 6.0, -1.0)
    alpha, sigma = schedule.scales(jnp.float32(-1.0))
    expected = 0.5 * ((alpha * x) ** 2 + sigma**2 - 1 - jnp.log(sigma**2)).sum(1)
    np.testing.assert_allclose(bounds.prior_kl(schedule, x), expected, rtol=1e-4)
    assert (bounds.prior_kl(SCHEDULES["ve"], x) < 1e-2).all()
