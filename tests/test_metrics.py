"""Metrics against closed forms and against numpy on all rows at once."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax.metrics import bits, codebook
from gen_jax.metrics.moments import Moments, exact_sum, most_varied
from gen_jax.metrics.psnr import CAP, psnr


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.floats(-1e6, 1e6), st.integers(0, 99))
def test_moments_of_batches_are_those_of_all_rows(sizes, offset, seed):
    rows = np.random.default_rng(seed).normal(size=(sum(sizes) + 1, 3)) + offset
    moments = Moments()
    for batch in np.split(rows, np.cumsum(sizes)):
        moments = moments.update(batch)
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-6, atol=1e-12)


def test_moments_keep_small_variance_beside_a_large_mean_in_float32():
    rows = np.float32(4096) + np.float32([[0.0], [0.25], [0.5], [0.75]])
    assert Moments().update(rows).variance == pytest.approx(np.float64(rows).var(), rel=1e-12)


def test_most_varied_orders_by_variance_and_breaks_ties_by_index():
    rows = np.array([[0, 0, 0, 0], [1, 3, 1, 2]], float)
    assert most_varied(Moments().update(rows), 3).tolist() == [1, 3, 0]


@given(st.permutations([1e16, 1.0, -1e16, 1e-3, 3.0]))
def test_exact_sum_does_not_depend_on_the_order(values):
    assert exact_sum(np.array(values)) == 4.001


@pytest.mark.parametrize("values", [[np.inf, 1.0], [np.inf, -np.inf], [np.nan, 1.0]])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_exact_sum_passes_on_what_is_not_finite(values):
    np.testing.assert_equal(exact_sum(np.array(values)), sum(values))


def test_bits_and_perplexity():
    assert bits.bits(math.log(2) * 12, 4) == pytest.approx(3)
    assert bits.perplexity(math.log(7)) == pytest.approx(7)
    assert bits.perplexity(1e4) == math.inf


def test_codebook_of_known_use():
    assert codebook.perplexity(np.array([5, 5, 5, 5])) == pytest.approx(4)
    assert codebook.perplexity(np.array([9, 0, 0])) == 1
    # entropy of (1/2, 1/4, 1/4) is 1.5 ln 2
    assert codebook.perplexity(np.array([2, 1, 1, 0])) == pytest.approx(2**1.5)
    assert codebook.used(np.array([2, 1, 1, 0])) == 0.75
    assert codebook.perplexity(np.zeros(3, int)) == 1


@pytest.mark.parametrize("offset", [1, 7, 255])
def test_psnr_of_a_constant_offset(offset):
    a = np.zeros((2, 4, 3, 1), np.uint8)
    b = a.copy()
    b[0] += offset
    found = np.asarray(psnr(jnp.asarray(a), jnp.asarray(b)))
    np.testing.assert_allclose(found, [20 * math.log10(255 / offset), CAP], atol=1e-4)
