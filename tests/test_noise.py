"""Schedules: end points, inverses, scales and grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.core import noise
from gen_jax.core.noise import Schedule

EACH = [Schedule(curve, scaling, 9.0, -7.0) for curve in noise.CURVES for scaling in noise.SCALINGS]


@pytest.mark.parametrize("schedule", EACH, ids=lambda s: f"{s.curve}-{s.scaling}")
def test_a_schedule_falls_between_its_end_points_and_inverts(schedule):
    t = jnp.linspace(0.0, 1.0, 101)
    log_snr = schedule.log_snr(t)
    np.testing.assert_allclose(log_snr[jnp.array([0, -1])], [9.0, -7.0], rtol=1e-5)
    assert (jnp.diff(log_snr) < 0).all()
    np.testing.assert_allclose(schedule.time(log_snr), t, atol=2e-4)
    slope = (schedule.log_snr(t[1:-1] + 1e-3) - schedule.log_snr(t[1:-1] - 1e-3)) / 2e-3
    np.testing.assert_allclose(schedule.slope(t[1:-1])[5:-5], slope[5:-5], rtol=0.02)
    alpha, sigma = schedule.scales(log_snr)
    np.testing.assert_allclose(2 * jnp.log(alpha / sigma), log_snr, atol=1e-3)
    total = {"vp": alpha**2 + sigma**2, "ve": alpha, "flow": alpha + sigma}[schedule.scaling]
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)


def test_the_curves_are_the_published_ones():
    """Alpha of the cosine at half time; DDPM's betas summed; the flow's sigma is t."""
    t = jnp.array([0.2, 0.5, 0.9])
    ends = (25.0, -25.0)
    alpha, _ = Schedule("cosine", "vp", *ends).scales(Schedule("cosine", "vp", *ends).log_snr(t))
    np.testing.assert_allclose(alpha, np.cos(np.pi / 2 * t), atol=2e-5)
    linear = Schedule("linear", lambda_max=20.0, lambda_min=-10.0)
    place = noise.CURVES["linear"].place(linear.log_snr(t))
    betas = np.linspace(0.1, 20.0, 100_001) / 100_000
    expected = [np.exp(-betas[: int(s * 100_000)].sum() / 2) for s in np.asarray(place)]
    np.testing.assert_allclose(linear.scales(linear.log_snr(t))[0], expected, rtol=1e-3)
    flow = Schedule("flow", "flow", *ends)
    np.testing.assert_allclose(flow.scales(flow.log_snr(t))[1], t, atol=1e-5)


def test_grids_go_from_noise_to_data_evenly_in_their_own_variable():
    schedule = Schedule("cosine", "vp", 8.0, -6.0)
    even = {
        "time": schedule.time,
        "log_snr": lambda log_snr: log_snr,
        "karras": lambda log_snr: jnp.exp(-log_snr / 2) ** (1 / 7),
    }
    for name, grid in noise.GRIDS.items():
        log_snr = grid(schedule, 10)
        np.testing.assert_allclose(log_snr[jnp.array([0, -1])], [-6.0, 8.0], rtol=1e-4)
        gaps = jnp.diff(even[name](log_snr))
        np.testing.assert_allclose(gaps, gaps.mean(), rtol=2e-3)


@pytest.mark.parametrize("curve", noise.CURVES)
@pytest.mark.parametrize("scaling", noise.SCALINGS)
def test_the_widest_ends_that_a_config_takes_are_exact(curve, scaling):
    schedule = Schedule(curve, scaling, 20.0, -20.0)
    for steps in (4, 1000):
        for grid in noise.GRIDS.values():
            np.testing.assert_allclose(grid(schedule, steps)[jnp.array([0, -1])], [-20.0, 20.0], atol=2e-2)
    log_snr = jnp.array([-20.0, -5.0, 20.0])
    alpha, sigma = schedule.scales(log_snr)
    np.testing.assert_allclose(2 * jnp.log(alpha / sigma), log_snr, rtol=1e-4)
    position = noise.SCALINGS[scaling].position(log_snr[1:])
    at = noise.SCALINGS[scaling].scales(position)
    np.testing.assert_allclose(at[0], alpha[1:], rtol=1e-5)
    np.testing.assert_allclose(at[1], sigma[1:], rtol=1e-5)


def test_a_curve_of_ones_own_is_one_line(monkeypatch):
    """Quadratic in t: alpha^2 / sigma^2 = exp(-s |s|)."""
    own = noise.Curve(lambda s: -s * jnp.abs(s), lambda log_snr: -jnp.sign(log_snr) * jnp.sqrt(jnp.abs(log_snr)))
    monkeypatch.setitem(noise.CURVES, "quadratic", own)
    schedule = Schedule("quadratic", "vp", 9.0, -9.0)
    np.testing.assert_allclose(schedule.log_snr(jnp.array([0.0, 0.5, 0.75])), [9.0, 0.0, -2.25], atol=1e-5)


def test_a_diffused_example_has_the_scales_of_its_row():
    schedule = Schedule("cosine", "vp", 9.0, -9.0)
    x, eps = jnp.ones((3, 2, 2)), jax.random.normal(jax.random.key(0), (3, 2, 2))
    log_snr = jnp.array([9.0, 0.0, -9.0])
    z = noise.diffuse(schedule, x, log_snr, eps)
    for row, value in enumerate(log_snr):
        alpha, sigma = schedule.scales(value)
        np.testing.assert_allclose(z[row], alpha * x[row] + sigma * eps[row], rtol=1e-6)
