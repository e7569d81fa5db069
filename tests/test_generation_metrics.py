"""FID, KID, Inception Score, precision and recall: closed forms, and torch-fidelity's values."""

import numpy as np
import pytest
from fidelity_reference import VALUES, features

from gen_jax.metrics import precision_recall as pr
from gen_jax.metrics.frechet import fid, frechet_distance, moments
from gen_jax.metrics.inception_score import inception_score
from gen_jax.metrics.kid import kid, mmd2


def test_each_is_torch_fidelitys():
    real, fake, logits = features()
    shares = pr.precision_recall(fake, real)
    found = {
        "frechet_inception_distance": fid(fake, *moments(real)),
        "inception_score_mean": inception_score(logits),
        "precision": shares.precision,
        "recall": shares.recall,
        "kid_1_subsets_of_1000": mmd2(fake, real[:1000]),
        "kid_20_subsets_of_200": kid(fake, real[:1000], subsets=20, subset_size=200),
    }
    assert found == pytest.approx(VALUES, abs=1e-3)


@pytest.mark.parametrize("dims", [1, 5])
def test_frechet_distance_of_two_gaussians(dims):
    rng = np.random.default_rng(dims)
    mean, other = rng.normal(size=(2, dims))
    a, b = rng.uniform(0.1, 3, (2, dims))
    basis = np.linalg.qr(rng.normal(size=(dims, dims)))[0]  # covariances that commute: the closed form
    found = frechet_distance(mean, basis * a**2 @ basis.T, other, basis * b**2 @ basis.T)
    assert found == pytest.approx(((mean - other) ** 2).sum() + ((a - b) ** 2).sum(), rel=1e-10)
    identity = np.eye(dims)
    assert frechet_distance(mean, identity * 0, mean, identity) == pytest.approx(dims)
    cov = np.cov(rng.normal(size=(dims + 5, dims)), rowvar=False).reshape(dims, dims)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_does_not_depend_on_the_order_and_bears_deficient_ranks():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 20)), 2 * rng.normal(size=(40, 20)) + 1
    assert fid(x, *moments(y)) == pytest.approx(fid(y, *moments(x)), rel=1e-8)
    assert fid(x, *moments(x)) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_unbiased_on_split_halves():
    x = np.random.default_rng(0).exponential(size=(300, 40, 4))
    values = [mmd2(one[:20], one[20:]) for one in x]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0 < mmd2(x[0], x[1] + 1)


def test_inception_score_of_known_classes():
    assert inception_score(np.zeros((50, 7))) == pytest.approx(1)
    assert inception_score(1e4 * np.eye(5)[np.arange(50) % 5]) == pytest.approx(5)
    assert inception_score(1e4 * np.eye(5)[np.zeros(50, int)]) == pytest.approx(1)


def test_precision_and_recall_of_known_sets(monkeypatch):
    real = np.random.default_rng(0).normal(size=(200, 2))
    assert pr.precision_recall(real, real)[:2] == (1, 1)
    assert pr.precision_recall(real + 100, real) == (0, 0, 0, 0)
    one = real[:1] + 1e-3 * np.random.default_rng(1).normal(size=(50, 2))  # collapse: plausible, not diverse
    found = pr.precision_recall(one, real)
    assert found.precision == 1 and found.recall < 0.05 and found.coverage < 0.05
    whole = pr.precision_recall(real[:90] * 1.5, real)
    monkeypatch.setattr(pr, "BLOCK", 7)
    assert pr.precision_recall(real[:90] * 1.5, real) == whole


def test_density_and_coverage_count_balls():
    """On a line, k = 1: the balls around 0, 1 and 10 reach 1, 1 and 9."""
    real, fake = np.array([[0.0], [1.0], [10.0]]), np.array([[0.5], [1.5], [0.9], [50.0]])
    found = pr.precision_recall(fake, real, k=1)
    assert found == (3 / 4, 2 / 3, (2 + 2 + 2 + 0) / 4, 1)
    assert pr.precision_recall(np.array([[-0.5], [-0.7]]), real, k=1)[2:] == (1, 1 / 3)
    assert pr.precision_recall(np.array([[0.5], [0.6]]), real, k=1).density == 2  # fakes that crowd


def test_nearest_neighbours():
    x, y = np.random.default_rng(0).integers(0, 256, (2, 30, 12), dtype=np.uint8)
    y[17] = x[4]
    distance, index = pr.nearest(x, y)
    every = np.linalg.norm(x[:, None].astype(float) - y[None], axis=-1)
    np.testing.assert_allclose(distance, every.min(1), atol=1e-6)
    assert (index == every.argmin(1)).all() and distance[4] == 0 and index[4] == 17
