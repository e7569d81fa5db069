"""Bits a dimension, posterior collapse, and importance-weighted log-likelihoods."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluating import STATE, Weighted, build

from gen_jax.core.state import Mean
from gen_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Bound:
    discrete_likelihood: bool
    kl: float = 5.0

    def eval_step(self, state, batch, rng):
        ones = jnp.ones(len(batch["index"]))
        return {"loss": Mean.of(30 * ones), "elbo": Mean.of(-24 * math.log(2) * ones), "kl": Mean.of(self.kl * ones)}


@pytest.mark.parametrize("discrete", [True, False])
def test_bits_per_dim_only_of_discrete_pixels(discrete):
    arrays, info = {"image": np.zeros((5, 2, 3, 1), np.uint8)}, dict(kind="image", shape=(2, 3, 1))
    found = build({"type": "mean"}, Bound(discrete), arrays, **info)(STATE).scalars
    assert found.get("bits_per_dim") == (pytest.approx(4) if discrete else None)


@pytest.mark.parametrize(("kl", "collapsed"), [(0.01, 1.0), (5.0, 0.0)])
def test_posterior_collapse_is_a_scalar_and_a_warning(kl, collapsed):
    found = build({"type": "mean"}, Bound(False, kl), {"vector": np.zeros((3, 2), np.float32)})(STATE)
    assert found.scalars["posterior_collapse"] == collapsed
    assert len(found.warnings) == collapsed


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """z ~ N(0, 1), x | z ~ N(z, 1), and q(z | x) the posterior N(x / 2, 1 / 2) widened by `spread`."""

    spread: float = 1.0
    discrete_likelihood: bool = False

    def log_prob(self, state, batch, rng, num_samples):
        x = batch["vector"][:, :1]
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(rng, i), (num_samples,)))(batch["index"])
        scale = self.spread * math.sqrt(0.5)
        z = x / 2 + scale * noise
        log = jax.scipy.stats.norm.logpdf
        weights = log(z) + log(x, z) - log(z, x / 2, scale)
        return jax.nn.logsumexp(weights, axis=1) - math.log(num_samples)


def gaussian_data(n=19):
    x = np.random.default_rng(3).normal(size=(n, 2)).astype(np.float32)
    truth = -(np.float64(x[:, 0]) ** 2) / 4 - 0.5 * math.log(4 * math.pi)  # x ~ N(0, 2)
    return x, truth


@pytest.mark.parametrize("batch", [0, 2, 4])
def test_log_likelihood_of_a_gaussian(batch):
    x, truth = gaussian_data()
    section = {"type": "log_likelihood", "num_samples": 7, "batch": batch}
    found = build(section, Gaussian(), {"vector": x}, 4)(STATE).scalars
    assert found["log_likelihood"] == pytest.approx(truth.mean(), abs=1e-5)
    assert found["log_likelihood_stderr"] == pytest.approx(truth.std(ddof=1) / math.sqrt(19), rel=1e-4)
    assert set(found) == {"log_likelihood", "log_likelihood_stderr"}


def test_log_likelihood_does_not_depend_on_the_batch_and_tightens_with_samples():
    x, truth = gaussian_data()

    def found(k, batch):
        section = {"type": "log_likelihood", "num_samples": k, "batch": batch}
        return build(section, Gaussian(spread=1.7), {"vector": x}, 4)(STATE).scalars["log_likelihood"]

    assert found(50, 1) == pytest.approx(found(50, 4), abs=1e-6)
    assert found(1, 4) < found(1000, 4) == pytest.approx(truth.mean(), abs=0.02)


@pytest.mark.parametrize("limit", [1, 6, 8, 99])
def test_log_likelihood_of_the_first_examples(limit):
    x, truth = gaussian_data()
    section = {"type": "log_likelihood", "max_examples": limit, "batch": 2}
    found = build(section, Gaussian(), {"vector": x}, 4)(STATE).scalars
    assert found["log_likelihood"] == pytest.approx(truth[:limit].mean(), abs=1e-5)


def test_log_likelihood_in_bits_and_when_not_finite():
    x, truth = gaussian_data()
    found = build({"type": "log_likelihood"}, Gaussian(1.0, True), {"vector": x}, shape=(4, 2, 1), kind="image")(STATE)
    bits = -truth.mean() / math.log(2) / 8
    assert found.scalars["log_likelihood_bits_per_dim"] == pytest.approx(bits, abs=1e-5)
    x[3] = np.inf
    found = build({"type": "log_likelihood"}, Gaussian(), {"vector": x})(STATE)
    assert "1 of 19" in found.warnings[0] and not math.isfinite(found.scalars["log_likelihood"])


@dataclasses.dataclass(frozen=True)
class Grey(Gaussian):
    normalised_likelihood: bool = False


def test_log_likelihood_refuses_what_is_no_likelihood():
    with pytest.raises(ConfigError, match="log_likelihood: expected a normalised likelihood"):
        build({"type": "log_likelihood"}, Grey(), {})


def test_log_likelihood_refuses_batches_that_do_not_divide():
    with pytest.raises(ConfigError, match=r"batch.*divisor of 4"):
        build({"type": "log_likelihood", "batch": 3}, Gaussian(), {})
    with pytest.raises(ConfigError, match="log_prob"):
        build({"type": "log_likelihood"}, Weighted(), {})
