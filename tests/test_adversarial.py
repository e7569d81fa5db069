"""Losses at known logits in closed form, penalties against numerical differences, and what tells a collapse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.core import adversarial, ops
from gen_jax.core.adversarial import LOSSES, PENALTIES

ROOT = jax.random.key(0)
REAL, FAKE = jnp.array([2.0, -0.5]), jnp.array([-1.0, 3.0])
D_REAL, D_FAKE = (1 / (1 + np.exp(-np.float64(logit))) for logit in (REAL, FAKE))
D_PAIR = 1 / (1 + np.exp(np.float64(FAKE - REAL)))

# (critic, generator) written with probabilities, margins and targets as the papers have them
CLOSED = {
    "minimax": (-np.log(D_REAL) - np.log(1 - D_FAKE), np.log(1 - D_FAKE)),
    "non_saturating": (-np.log(D_REAL) - np.log(1 - D_FAKE), -np.log(D_FAKE)),
    "hinge": ([0.0, 1.5 + 4.0], [1.0, -3.0]),
    "least_squares": ([(1 + 1) / 2, (2.25 + 9) / 2], [4 / 2, 4 / 2]),
    "wasserstein": ([-3.0, 3.5], [1.0, -3.0]),
    "relativistic": (-np.log(D_PAIR), -np.log(1 - D_PAIR)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_in_closed_form(name):
    for loss, expected in zip(LOSSES[name][:2], CLOSED[name], strict=True):
        np.testing.assert_allclose(loss(REAL, FAKE), expected, rtol=1e-5, atol=1e-6)


def test_minimax_at_its_equilibrium():
    half = jnp.zeros(3)  # D = 1/2
    np.testing.assert_allclose(LOSSES["minimax"].critic(half, half), 2 * math.log(2), rtol=1e-6)
    value = -LOSSES["minimax"].critic(half, half)  # V(G, D), Goodfellow et al. 2014, theorem 1
    np.testing.assert_allclose(value, -math.log(4), rtol=1e-6)
    np.testing.assert_allclose(LOSSES["minimax"].generator(half, half), -math.log(2), rtol=1e-6)
    np.testing.assert_allclose(LOSSES["relativistic"].critic(half, half), math.log(2), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_large_logits_are_finite(name):
    far = jnp.array([1e4, -1e4])
    for loss in LOSSES[name][:2]:
        assert np.isfinite(loss(-far, far)).all()


def test_the_relativistic_loss_alone_is_of_pairs():
    for name, loss in LOSSES.items():
        moved = loss.generator(REAL + 1, FAKE) - loss.generator(REAL, FAKE)
        assert (np.abs(moved) > 0).all() == (name == "relativistic")


def test_smoothing_tells_the_critic_so():
    expected = -0.9 * np.log(D_REAL) - 0.1 * np.log(1 - D_REAL) - np.log(1 - D_FAKE)
    smooth = adversarial.smoothed(LOSSES["non_saturating"], 0.1)
    np.testing.assert_allclose(smooth.critic(REAL, FAKE), expected, rtol=1e-5)
    assert smooth.generator is LOSSES["non_saturating"].generator
    best = jnp.full(1, math.log(9.0))  # D(x) = 0.9
    np.testing.assert_allclose(jax.grad(lambda real: smooth.critic(real, best).sum())(best), 0, atol=1e-6)


def critic(x):
    """Two small layers, smooth."""
    first, second = (jax.random.normal(jax.random.key(i), shape) for i, shape in ((1, (3, 5)), (2, (5,))))
    return jnp.tanh(x @ first) @ second


def slopes(x, eps=1e-2):
    """|df/dx| by central differences [B]."""
    x = np.asarray(x, np.float64)
    sides = [(critic(jnp.asarray(x + eps * e)) - critic(jnp.asarray(x - eps * e))) / (2 * eps) for e in np.eye(3)]
    return np.sqrt(sum(np.square(np.float64(side)) for side in sides))


@pytest.mark.parametrize("by_row", [False, True])
def test_penalties_against_differences(by_row):
    real, fake = jax.random.normal(ROOT, (2, 6, 3))
    rng = ops.row_keys(ROOT, jnp.arange(6)) if by_row else ROOT
    mix = ops.uniform(rng, (6, 1))
    expected = {
        "gradient": (slopes(real + mix * (fake - real)) - 1) ** 2,
        "r1": slopes(real) ** 2 / 2,
        "r2": slopes(fake) ** 2 / 2,
    }
    assert expected.keys() == PENALTIES.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(PENALTIES[name](critic, real, fake, rng), value, rtol=1e-2, atol=1e-3, err_msg=name)


def test_gradient_penalty_of_a_linear_critic():
    weights = jnp.array([3.0, 4.0])
    real, fake = jax.random.normal(ROOT, (2, 6, 2))
    np.testing.assert_allclose(PENALTIES["gradient"](lambda x: x @ weights, real, fake, ROOT), (5 - 1) ** 2, rtol=1e-5)
    flat = PENALTIES["gradient"](lambda x: 0 * x[:, 0], real, fake, ROOT)
    np.testing.assert_allclose(flat, 1, rtol=1e-5)  # and its gradient is no NaN
    slope = jax.grad(lambda w: PENALTIES["gradient"](lambda x: x @ w, real, fake, ROOT).sum())(jnp.zeros(2))
    assert np.isfinite(slope).all()


def test_gradient_penalty_is_taken_between_real_and_fake():
    # the slope of (x + 2)^2 / 2 is x + 2, at least 2 between 0 and 10, so the penalty tells x
    between = jnp.zeros((200, 1)), jnp.full((200, 1), 10.0)
    x = np.sqrt(PENALTIES["gradient"](lambda x: (x[:, 0] + 2) ** 2 / 2, *between, ROOT)) + 1 - 2
    assert x.min() >= -1e-3 and x.max() <= 10.001
    assert abs(x.mean() - 5) < 0.7 and abs(x.std() - 10 / np.sqrt(12)) < 0.4  # uniform


def test_a_critic_is_sure_where_its_loss_is_flat():
    def sure(name, real, fake):
        return float(adversarial.sure(LOSSES[name], jnp.array([real]), jnp.array([fake]))[0])

    logit = math.log(0.994 / 0.006)  # 1 - D(x) + D(G(z)) is 0.012 there, against 1 at D = 1/2
    assert sure("non_saturating", logit, -logit) == 0 and sure("minimax", logit + 0.4, -logit - 0.4) == 1
    assert sure("non_saturating", 20.0, 0.0) == 0  # of one side only
    assert sure("hinge", 1.1, -1.1) == 1 and sure("hinge", 0.9, -1.1) == 0
    assert sure("relativistic", 3.0, -3.0) == 1 and sure("wasserstein", 1e3, -1e3) == 0


def test_distances_of_pairs_are_twice_the_variance():
    x = 3 * jax.random.normal(ROOT, (4001, 2, 2))  # an odd row has no partner
    found = adversarial.squared_distances(x)
    assert found.shape == (2000,)
    np.testing.assert_allclose(found.mean(), 2 * 4 * 9, rtol=0.05)
    np.testing.assert_array_equal(adversarial.squared_distances(jnp.ones((4, 3))), 0)


def test_claims_beyond_what_was_seen_and_fakes_all_alike_are_a_collapse():
    def alarm(confidence, diversity, seen):
        return float(adversarial.collapsed(*map(jnp.float32, (confidence, diversity, seen))))

    assert alarm(math.log(101) - 0.01, 1.0, 100) == 0 and alarm(math.log(101) + 0.01, 1.0, 100) == 1
    assert alarm(5.0, 1.0, 1000) == 0
    assert alarm(0.1, 2e-3, 100) == 0 and alarm(0.1, 5e-4, 100) == 1
