"""Closed forms against numerical integration, brute-force sums and scipy-free textbook values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.core import losses


def _key(i=0):
    return jax.random.key(i)


def test_bernoulli_sums_to_one_over_all_images():
    logits = jax.random.normal(_key(), (2, 3, 1)) * 3
    images = jnp.asarray(np.indices((2,) * 6).reshape(6, -1).T.reshape(-1, 2, 3, 1), jnp.float32)  # all 64
    log_prob = losses.bernoulli_log_prob(logits, images)
    assert log_prob.shape == (64,)
    np.testing.assert_allclose(jax.nn.logsumexp(log_prob), 0, atol=1e-5)


def test_bernoulli_is_finite_with_exact_gradients_at_extreme_logits():
    logits = jnp.array([-200.0, -30.0, 0.0, 30.0, 200.0])
    value, grad = jax.value_and_grad(lambda logits: losses.bernoulli_log_prob(logits, jnp.ones(5), event=1))(logits)
    np.testing.assert_allclose(value, -230 - np.log(2), rtol=1e-6)
    np.testing.assert_allclose(grad, 1 - jax.nn.sigmoid(logits), atol=1e-6)


def test_gaussian_density_integrates_to_one():
    x = jnp.linspace(-30, 30, 20_001)[:, None]
    density = jnp.exp(losses.gaussian_log_prob(jnp.array([1.5]), jnp.array([0.7]), x, event=1))
    np.testing.assert_allclose(np.trapezoid(density, x[:, 0]), 1, rtol=1e-5)


@pytest.mark.parametrize("log_scale", [-9.0, -5.0, -2.0, 1.0])
def test_logistic_mixture_sums_to_one_over_the_256_values(log_scale):
    grid = jnp.arange(256) / 127.5 - 1  # [256]
    parameters = jax.random.normal(_key(1), (2, 5, 1, 4))  # 5 pixels, 4 components; some means lie outside [-1, 1]
    log_scales = log_scale + 0.3 * jax.random.normal(_key(2), (5, 1, 4))
    log_prob = losses.logistic_mixture_log_prob(*parameters, log_scales, grid, event=0)
    assert log_prob.shape == (5, 256)
    np.testing.assert_allclose(jax.nn.logsumexp(log_prob, axis=1), 0, atol=2e-4)


def test_logistic_mixture_gradients_are_finite_far_from_every_component():
    def loss(means, log_scales):
        return losses.logistic_mixture_log_prob(jnp.zeros((1, 2)), means, log_scales, jnp.array([0.0]), event=1)

    for log_scale in (-20.0, -7.0, 0.0, 20.0):
        value, grads = jax.value_and_grad(loss, (0, 1))(jnp.array([[40.0, -40.0]]), jnp.full((1, 2), log_scale))
        assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)


def test_examples_are_summed_not_averaged():
    x = jnp.ones((2, 4, 4, 1))
    np.testing.assert_allclose(losses.bernoulli_log_prob(jnp.zeros_like(x), x), -16 * np.log(2), rtol=1e-6)


def _numeric_kl(mean_q, log_var_q, mean_p, log_var_p):
    z = np.linspace(-40, 40, 400_001)
    log_q, log_p = (
        -0.5 * ((z - m) ** 2 / np.exp(v) + v + np.log(2 * np.pi)) for m, v in ((mean_q, log_var_q), (mean_p, log_var_p))
    )
    return np.trapezoid(np.exp(log_q) * (log_q - log_p), z)


@pytest.mark.parametrize("q", [(0.0, 0.0), (1.3, -2.0), (-3.0, 1.0)])
def test_kl_to_the_standard_normal_against_integration(q):
    standard = losses.kl_to_standard_normal(*map(jnp.float32, q))
    np.testing.assert_allclose(standard, _numeric_kl(*q, 0.0, 0.0), rtol=1e-4, atol=1e-6)


def test_free_bits_hold_the_floor_and_its_gradient():
    kl = jnp.array([[0.1, 0.5, 2.0]])
    np.testing.assert_allclose(losses.free_bits(kl, 0.5), [3.0])
    np.testing.assert_allclose(losses.free_bits(kl, 0.0), kl.sum(1), rtol=1e-6)
    grad = jax.grad(lambda kl: losses.free_bits(kl, 0.3).sum())(kl)
    np.testing.assert_allclose(grad, [[0, 1, 1]])


def test_cross_entropy_takes_logits():
    logits = jnp.log(jnp.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])) + 100
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.array([2, 0])), -np.log([0.5, 0.1]), rtol=1e-4)
