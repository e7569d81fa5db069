"""Solvers with the closed-form denoiser of a Gaussian and of a mixture: moments, orders of convergence, likelihoods."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_data import GAUSSIAN, MEAN, SCHEDULES, STD, Mixture, sampled

from gen_jax.core import bound, denoising, guidance, noise, solvers
from gen_jax.core.denoising import Denoised

KEY = jax.random.key(1)
WIDE = {  # ends at which q(z_1 | x) is the prior
    "vp": noise.Schedule("cosine", "vp", 12.0, -20.0),
    "ve": noise.Schedule("log_linear", "ve", 12.0, -20.0),
    "flow": noise.Schedule("flow", "flow", 12.0, -20.0),
}
ORDERS = {"ddim": 1, "euler": 1, "heun": 2, "dpm_solver": 2}
RING = Mixture(2.0 * jnp.array([[math.cos(a), math.sin(a)] for a in 2 * np.pi * np.arange(5) / 5]), jnp.full(2, 0.2))


def ode_map(schedule, normal):
    """Where the ODE takes noise to: along it, (z - alpha mean) / std of z stays."""
    (alpha, sigma), (alpha0, sigma0) = (
        schedule.scales(jnp.float32(end)) for end in (schedule.lambda_min, schedule.lambda_max)
    )
    z = solvers.start(schedule, normal).z
    scaled = (z - alpha * MEAN) / jnp.sqrt(alpha**2 * STD**2 + sigma**2)
    return alpha0 * MEAN + jnp.sqrt(alpha0**2 * STD**2 + sigma0**2) * scaled


@pytest.mark.parametrize("solver", ORDERS)
@pytest.mark.parametrize("scaling", SCHEDULES)
def test_the_error_falls_at_the_order_of_the_solver(solver, scaling):
    schedule, normal = SCHEDULES[scaling], jax.random.normal(KEY, (64, 2))
    errors = []
    for steps in (64, 128):
        found = sampled(GAUSSIAN, schedule, solver, noise.GRIDS["log_snr"](schedule, steps), normal)
        errors.append(float(jnp.sqrt(((found - ode_map(schedule, normal)) ** 2).mean())))
    assert abs(math.log2(errors[0] / errors[1]) - ORDERS[solver]) < 0.25


@pytest.mark.parametrize(("solver", "grid"), [("ancestral", "log_snr"), ("heun", "karras"), ("dpm_solver", "time")])
def test_samples_have_the_moments_of_the_data(solver, grid):
    schedule, normal = SCHEDULES["vp"], jax.random.normal(KEY, (8192, 2))
    found = sampled(GAUSSIAN, schedule, solver, noise.GRIDS[grid](schedule, 400), normal, rng=KEY)
    np.testing.assert_allclose(found.mean(0), MEAN, atol=4 * 1.3 / math.sqrt(8192))
    np.testing.assert_allclose(found.std(0), STD, rtol=0.04)


@pytest.mark.parametrize("solver", ["ancestral", "heun"])
def test_samples_of_a_mixture_reach_each_mode_in_its_share(solver):
    schedule, normal = SCHEDULES["vp"], jax.random.normal(KEY, (4096, 2))
    found = sampled(RING, schedule, solver, noise.GRIDS["log_snr"](schedule, 100), normal, rng=KEY)
    distance = jnp.linalg.norm(found[:, None] - RING.centres, axis=-1)
    assert (distance.min(1) < 4 * 0.2).mean() > 0.99
    shares = np.bincount(np.asarray(distance.argmin(1)), minlength=5) / 4096
    np.testing.assert_allclose(shares, 0.2, atol=0.03)


def test_ddim_with_eta_1_draws_from_the_posterior_of_ddpm():
    """Its mean and deviation are those of q(z_there | z_here, x), Ho et al. 2020, eq. 6 and 7, of any scaling."""
    here, there = jnp.float32(-0.5), jnp.float32(1.0)
    for schedule in SCHEDULES.values():
        x, z = jnp.array([[0.3, -0.8]]), jnp.array([[0.9, 0.1]])
        (a, s), (a0, s0) = schedule.scales(here), schedule.scales(there)

        def exact(z, log_snr, schedule=schedule, x=x):
            return denoising.of_x(schedule, x, z, log_snr)

        def stepped(fresh, schedule=schedule, exact=exact, z=z):
            where = solvers.step_of(schedule, jnp.stack([here, there]), jnp.int32(0), fresh)
            return solvers.ancestral(exact, solvers.Walk(z, 0 * z), where).z

        mean = stepped(jnp.zeros((1, 2)))
        step = s**2 - (a / a0) ** 2 * s0**2  # variance of z_here given z_there
        np.testing.assert_allclose(mean, (a / a0) * s0**2 / s**2 * z + a0 * step / s**2 * x, rtol=1e-4)
        np.testing.assert_allclose(stepped(jnp.ones((1, 2))) - mean, jnp.sqrt(step) * s0 / s, rtol=1e-3)


@pytest.mark.parametrize("scaling", SCHEDULES)
def test_the_ode_gives_the_likelihood_within_a_ten_thousandth_of_a_nat_a_dimension(scaling):
    """Against the density of z / alpha at lambda_max; the prior in place of p(z_1) costs less than the tolerance."""
    schedule, x = WIDE[scaling], GAUSSIAN.draw(KEY, 16)
    alpha = schedule.scales(jnp.float32(schedule.lambda_max))[0]
    expected = GAUSSIAN.log_prob(schedule, alpha * x, schedule.lambda_max) + 2 * jnp.log(alpha)

    def log_prob(probes):
        return bound.ode_log_prob(schedule, GAUSSIAN.denoiser(schedule), x, probes, 128)

    np.testing.assert_allclose(jax.jit(lambda: log_prob(None))(), expected, atol=2e-4)
    signs = jax.random.rademacher(KEY, (2, *x.shape), jnp.float32)  # exact for a Jacobian that is diagonal
    np.testing.assert_allclose(jax.jit(lambda: log_prob(signs))(), expected, atol=2e-4)


@pytest.mark.parametrize("curve", noise.CURVES)
def test_the_ode_resolves_data_as_fine_as_its_first_noise(curve):
    """Pixels that are always 0: their density is that of the noise at lambda_max, whatever the curve of training."""
    constant = Mixture(jnp.zeros((1, 2)), jnp.zeros(2))
    schedule, x = noise.Schedule(curve, "vp", 13.3, -13.3), jnp.array([[0.0, 0.0], [1e-3, -2e-3]])
    alpha = schedule.scales(jnp.float32(13.3))[0]
    expected = constant.log_prob(schedule, alpha * x, 13.3) + 2 * jnp.log(alpha)
    found = jax.jit(lambda: bound.ode_log_prob(schedule, constant.denoiser(schedule), x, None, 64))()
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_hutchinsons_trace_is_unbiased():
    matrix = jax.random.normal(KEY, (3, 3))
    z = jnp.zeros((2, 3))
    exact = solvers._trace(lambda v: v @ matrix, z, None)
    np.testing.assert_allclose(exact, jnp.trace(matrix), rtol=1e-5)
    probes = jax.random.rademacher(KEY, (4096, 2, 3), jnp.float32)
    each = jnp.einsum("pbi,ij,pbj->pb", probes, matrix, probes)
    np.testing.assert_allclose(solvers._trace(lambda v: v @ matrix, z, probes), each.mean(0), rtol=1e-4)
    assert (jnp.abs(each.mean(0) - jnp.trace(matrix)) < 4 * each.std(0) / 64).all()


def test_guidance_at_its_ends_and_outside_its_interval():
    conditional, other = (Denoised(x, -x) for x in (jnp.array([[1.0]]), jnp.array([[0.25]])))
    for scale, expected in ((1.0, 1.0), (0.0, 0.25), (3.0, 2.5)):
        found = guidance.guided(conditional, other, scale)
        np.testing.assert_allclose([found.x[0, 0], -found.eps[0, 0]], expected)
    np.testing.assert_allclose(guidance.guided(conditional, other, 3.0, active=False).x, 1.0)


def test_pairs_stand_row_beside_row():
    a, b = jnp.arange(3.0), 10 + jnp.arange(3.0)
    np.testing.assert_array_equal(guidance.pairs(a, b), [0, 10, 1, 11, 2, 12])
    first, second = guidance.halves(Denoised(guidance.pairs(a, b), guidance.pairs(b, a)))
    np.testing.assert_array_equal(jnp.stack([*first, *second]), [a, b, b, a])


def test_thresholds_and_inpainting_keep_z():
    schedule, log_snr = SCHEDULES["vp"], jnp.float32(-1.0)
    z = jax.random.normal(KEY, (2, 100))
    alpha, sigma = schedule.scales(log_snr)
    found = denoising.of_x(schedule, 3 * jax.random.normal(jax.random.key(2), z.shape), z, log_snr)
    clipped = guidance.thresholded(found, schedule, z, log_snr)
    np.testing.assert_allclose(clipped.x, jnp.clip(found.x, -1, 1))
    dynamic = guidance.thresholded(found, schedule, z, log_snr, percentile=0.9)
    limit = jnp.quantile(jnp.abs(found.x), 0.9, axis=1, keepdims=True)
    np.testing.assert_allclose(dynamic.x, jnp.clip(found.x, -limit, limit) / limit, rtol=1e-5)
    mask = (jnp.arange(100) < 40).astype(jnp.float32)[None]
    filled = guidance.inpainted(found, schedule, z, log_snr, jnp.full_like(z, 0.5), mask)
    np.testing.assert_allclose(filled.x[:, :40], 0.5)
    np.testing.assert_allclose(filled.x[:, 40:], found.x[:, 40:], rtol=1e-6)
    for each in (clipped, dynamic, filled):
        np.testing.assert_allclose(alpha * each.x + sigma * each.eps, z, atol=1e-5)
