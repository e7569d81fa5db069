"""A linear VAE against probabilistic PCA in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from vaes import SMALL, batch_of, started

from gen_jax.core.gradients import Optimizer
from gen_jax.models import vae


def ppca_log_likelihood(x, latent):
    """The mean log N(x; b, W W' + scale^2 I) at its maximum over W, b and scale, nats (Tipping & Bishop 1999)."""
    d = x.shape[1]
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    variance = eigenvalues[latent:].mean()
    log_det = np.log(eigenvalues[:latent]).sum() + (d - latent) * np.log(variance)
    return -0.5 * (d * np.log(2 * np.pi) + log_det + d)


def marginal_log_likelihood(params, x):
    """log N(x; b, W W' + scale^2 I) [N] of a linear VAE."""
    dense = params["decoder"]["Dense_0"]
    w, b, scale = np.asarray(dense["kernel"], np.float64), np.asarray(dense["bias"]), float(np.exp(params["log_scale"]))
    covariance = w.T @ w + scale**2 * np.eye(len(b))
    centred = x - b
    _, log_det = np.linalg.slogdet(covariance)
    distance = (centred * np.linalg.solve(covariance, centred.T).T).sum(1)
    return -0.5 * (len(b) * np.log(2 * np.pi) + log_det + distance)


@pytest.fixture(scope="module")
def linear_vae():
    """A linear VAE trained on 500 images of 4x4 grey levels with 3 strong directions."""
    rng = np.random.RandomState(0)
    x = 128 + rng.randn(500, 3) * (60, 40, 25) @ np.linalg.qr(rng.randn(16, 3))[0].T + 8 * rng.randn(500, 16)
    batch = batch_of(500) | {"image": jnp.asarray(np.clip(np.round(x), 0, 255), jnp.uint8).reshape(500, 4, 4, 1)}
    fields = vae.Config(**(SMALL | dict(net="linear", widths=(), likelihood="gaussian")))
    model = vae.from_config(fields, {"net": Optimizer(optax.adam(optax.cosine_decay_schedule(2e-2, 4000)))})
    state = jax.jit(model.init)(jax.random.key(0), batch)

    @jax.jit
    def train(state):
        return jax.lax.scan(lambda s, _: (model.train_step(s, batch, jax.random.key(1))[0], None), state, None, 4000)[0]

    return model, train(state), batch


def test_linear_vae_reaches_probabilistic_pca(linear_vae):
    model, state, batch = linear_vae
    x = np.asarray(batch["image"], np.float64).reshape(500, 16) / 255
    best = ppca_log_likelihood(x, 3)
    exact = marginal_log_likelihood(state.nets["net"].params, x).mean()
    elbo = jax.jit(model.eval_step)(state, batch, jax.random.key(2))["elbo"].total.mean()
    assert exact <= best + 1e-4
    np.testing.assert_allclose(exact, best, rtol=5e-3)
    np.testing.assert_allclose(elbo, best, rtol=1e-2)


def test_log_prob_equals_the_closed_form_of_a_linear_model(linear_vae):
    model, state, batch = linear_vae
    x = np.asarray(batch["image"], np.float64).reshape(500, 16) / 255
    log_prob = jax.jit(model.log_prob, static_argnums=3)
    error = log_prob(state, batch, jax.random.key(0), 200) - marginal_log_likelihood(state.nets["net"].params, x)
    assert abs(error).max() < 0.4 and abs(error.mean()) < 0.01
    # and away from the optimum, where the posterior is only approximate
    early = started(model, batch)
    exact = marginal_log_likelihood(early.nets["net"].params, x)
    np.testing.assert_allclose(log_prob(early, batch, jax.random.key(0), 3000).mean(), exact.mean(), rtol=0.02)
