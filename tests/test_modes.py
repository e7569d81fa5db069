"""Mode counts on samples whose modes are known."""

import math

import numpy as np

from gen_jax.data.sources.gaussians import grid, ring
from gen_jax.metrics.modes import mode_counts

CENTRES = ring(8, 2.0)


def test_centres_of_ring_and_grid():
    np.testing.assert_allclose(np.linalg.norm(CENTRES, axis=1), 2.0)
    np.testing.assert_allclose(CENTRES[2], [0, 2], atol=1e-12)
    found = grid(25, 4.0)
    np.testing.assert_array_equal(found[[0, 4, 12, 20, 24]], [[-4, -4], [4, -4], [0, 0], [-4, 4], [4, 4]])
    assert {tuple(centre) for centre in found} == {(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)}


def test_true_samples_cover_all():
    rng = np.random.default_rng(0)
    samples = CENTRES[rng.integers(0, 8, 20_000)] + 0.02 * rng.normal(size=(20_000, 2))
    found = mode_counts(samples, CENTRES, 0.02)
    assert found["modes"] == 8
    assert abs(found["near_share"] - (1 - math.exp(-4.5))) < 0.003  # Rayleigh: P(r < 3 sigma)
    assert found["mode_kl"] < 1e-3


def test_collapse_and_noise():
    one = np.repeat(CENTRES[:1], 100, axis=0)
    found = mode_counts(one, CENTRES, 0.02)
    assert found == {"modes": 1.0, "near_share": 1.0, "mode_kl": math.log(8)}
    nowhere = mode_counts(np.zeros((100, 2)), CENTRES, 0.02)
    assert nowhere == {"modes": 0.0, "near_share": 0.0, "mode_kl": math.inf}
    broken = mode_counts(np.full((100, 2), np.nan), CENTRES, 0.02)
    assert broken["modes"] == 0 and broken["near_share"] == 0


def test_reach_and_share():
    off = CENTRES[0] + [[0.059, 0.0], [0.061, 0.0]]
    assert mode_counts(off, CENTRES, 0.02)["near_share"] == 0.5
    assert mode_counts(off, CENTRES, 0.02, within=4.0)["near_share"] == 1.0
    rare = np.concatenate([np.repeat(CENTRES[:1], 199, axis=0), CENTRES[1:2]])  # 0.5 % on the second mode
    assert mode_counts(rare, CENTRES, 0.02)["modes"] == 1
    assert mode_counts(rare, CENTRES, 0.02, min_share=0.005)["modes"] == 2
