"""Flow maps on a Gaussian, whose average velocity is known; the intervals that they train on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_data import GAUSSIAN, MEAN, STD, average_velocity

from gen_jax.core import flow_maps

KEY, N = jax.random.key(0), 256


def along(t, r, n=N):
    """Draws of z at t, and the marginal velocity there."""
    rng, noise_rng = jax.random.split(KEY)
    z = flow_maps.path(GAUSSIAN.draw(rng, n), jax.random.normal(noise_rng, (n, 2)), t)
    return z, average_velocity(z, t, t)


def times(n=N):
    t, r = jax.random.uniform(KEY, (2, n))
    return jnp.maximum(t, r), jnp.minimum(t, r)


def test_the_average_velocity_is_the_flow_of_the_marginal_velocity():
    """The closed form itself: at r = t it is E[eps - x | z], and Euler's steps of that lead where it says."""
    t = jnp.full(N, 0.8)
    z, velocity = along(t, t)
    spread = 0.2**2 * STD**2 + 0.8**2
    x = MEAN + 0.2 * STD**2 / spread * (z - 0.2 * MEAN)
    np.testing.assert_allclose(velocity, (z - 0.2 * x) / 0.8 - x, rtol=1e-4, atol=1e-5)

    def step(z, at):
        return z - 0.5 / 1000 * average_velocity(z, at, at), None

    walked, _ = jax.lax.scan(step, z, t - 0.5 * jnp.arange(1000)[:, None] / 1000)
    np.testing.assert_allclose(flow_maps.jump(average_velocity, z, t, t - 0.5), walked, atol=5e-3)


def test_the_closed_form_satisfies_the_identity_of_mean_flow():
    t, r = times()
    z, v = along(t, r)
    found = jax.jit(lambda: flow_maps.mean_flow(average_velocity, z, v, t, r))()
    np.testing.assert_allclose(found.u, average_velocity(z, t, r), rtol=1e-5)
    np.testing.assert_allclose(found.u, found.target, rtol=1e-4, atol=1e-4)


def test_targets_from_pairs_average_to_the_average_velocity():
    """Training sees eps - x instead of its mean given z: the target is linear in it."""
    t, r = times()
    z, v = along(t, r)
    noise = jax.random.normal(KEY, z.shape)
    targets = [flow_maps.mean_flow(average_velocity, z, v + sign * noise, t, r).target for sign in (-1, 1)]
    np.testing.assert_allclose(sum(targets) / 2, average_velocity(z, t, r), rtol=1e-4, atol=1e-4)


def test_a_shortcut_of_the_exact_average_velocity_is_two_of_half_its_size():
    t, r = flow_maps.dyadic_interval(times()[0], KEY, lambda rng: rng)
    z, v = along(t, r)
    found = flow_maps.shortcut(average_velocity, z, v, t, r)
    smallest = np.asarray(t - r <= flow_maps.SMALLEST)
    assert 0 < smallest.sum() < N
    np.testing.assert_allclose(found.u[~smallest], found.target[~smallest], rtol=1e-4, atol=1e-4)
    # the halves of the smallest are Euler's steps, whose error is of the order of the step
    error = np.abs(found.u - found.target)[smallest]
    assert 1e-4 < error.max() < 2 * flow_maps.SMALLEST
    asked = flow_maps.shortcut(lambda z, t, r: jnp.broadcast_to((t > r)[:, None], z.shape).astype(float), z, v, t, r)
    np.testing.assert_array_equal(asked.target[:, 0], ~smallest)


@pytest.mark.parametrize("name", flow_maps.OBJECTIVES)
def test_where_r_is_t_the_target_is_the_velocity(name):
    t, _ = times()
    z, v = along(t, t)
    v += 1.0
    found = flow_maps.OBJECTIVES[name].regression(average_velocity, z, v, t, t)
    np.testing.assert_allclose(found.target, v, rtol=1e-6)
    np.testing.assert_array_equal(found.u, average_velocity(z, t, t))


@pytest.mark.parametrize("name", flow_maps.OBJECTIVES)
def test_no_gradient_flows_through_the_target(name):
    t, r = times()
    z, v = along(t, r)

    def total(scale):
        return flow_maps.OBJECTIVES[name].regression(lambda *at: scale * average_velocity(*at), z, v, t, r).target.sum()

    assert float(jax.grad(total)(1.0)) == 0


def test_one_step_of_the_exact_average_velocity_has_the_moments_of_the_data():
    z = jax.random.normal(KEY, (8192, 2))
    x = flow_maps.jump(average_velocity, z, jnp.ones(8192), jnp.zeros(8192))
    np.testing.assert_allclose(x, MEAN + STD * z, rtol=1e-4, atol=1e-5)


def test_the_path_goes_from_data_to_noise():
    x, eps = jnp.full((3, 2), 2.0), jnp.full((3, 2), -1.0)
    found = flow_maps.path(x, eps, jnp.array([0.0, 0.25, 1.0]))
    np.testing.assert_allclose(found[:, 0], [2.0, 1.25, -1.0])


@pytest.mark.parametrize("name", flow_maps.OBJECTIVES)
@pytest.mark.parametrize("one", [True, False])
def test_intervals_lie_in_time_and_have_their_share(name, one):
    first, second = (jax.random.key(i) if one else jax.random.split(jax.random.key(i), 4000) for i in (1, 2))
    t, r = flow_maps.intervals(name, "uniform", 0.6, first, second, 4000)
    assert (r >= 0).all() and (r <= t).all() and (t <= 1).all()
    assert (r == t).mean() == pytest.approx(0.6, abs=0.03)
    at_once = np.asarray(t)[np.asarray(r == t)]
    assert at_once.mean() == pytest.approx(0.5, abs=0.03)  # the times as they were drawn
    length = np.asarray(t - r)[np.asarray(r < t)]
    if name == "mean_flow":  # the distance of two uniform times
        assert length.mean() == pytest.approx(1 / 3, abs=0.03) and (length**2).mean() == pytest.approx(1 / 6, abs=0.03)
    else:
        shares = [(length == 0.5**k).mean() for k in range(7)]
        np.testing.assert_allclose(shares, 1 / 7, atol=0.04)
        assert ((np.asarray(t / (t - r))[np.asarray(r < t)] % 1) == 0).all()  # end points of equal parts


def test_shortcuts_hold_the_time_that_was_drawn():
    drawn = jnp.array([0.0, 0.3, 0.5, 1.0])
    for key in range(8):
        t, r = flow_maps.dyadic_interval(drawn, jax.random.split(jax.random.key(key), 4), lambda rng: rng)
        assert (r <= drawn).all() and (drawn <= t).all() and (t > r).all()


def test_the_adaptive_weight_divides_by_the_error():
    error = jnp.array([0.1, 2.0])
    np.testing.assert_array_equal(flow_maps.adaptive_weight(error, 0.0), 1.0)
    np.testing.assert_allclose(flow_maps.adaptive_weight(error, 1.0) * error, 1.0, rtol=0.02)
    np.testing.assert_allclose(flow_maps.adaptive_weight(error, 0.5), error**-0.5, rtol=0.01)
    assert (jax.grad(lambda error: flow_maps.adaptive_weight(error, 1.0).sum())(error) == 0).all()
