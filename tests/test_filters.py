"""What may be drawn, against exhaustive search over sets of tokens with integer weights, where ties abound."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax.core.filters import keep_min_p, keep_top_k, keep_top_p, penalise, tempered
from gen_jax.core.generate import draw_token, process
from gen_jax.core.sampling import Text

V = 7
WEIGHTS = st.lists(st.integers(1, 4), min_size=V, max_size=V)


def kept(logits) -> set[int]:
    return set(np.flatnonzero(np.isfinite(np.asarray(logits)[0])).tolist())


def logits_of(weights) -> jax.Array:
    return jnp.log(jnp.asarray([weights], jnp.float32))


def best_set(weights, fits) -> set[int]:
    """Of all sets that fit: the smallest, of those the likeliest, of those the one with the lowest ids."""
    sets = (each for size in range(1, V + 1) for each in itertools.combinations(range(len(weights)), size))
    return set(min(filter(fits, sets), key=lambda each: (len(each), -sum(weights[i] for i in each), each)))


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, share=st.integers(1, 4 * V))
def test_top_p_is_the_smallest_set_that_reaches_p(weights, share):
    p = Fraction(min(share, sum(weights)), sum(weights))
    want = best_set(weights, lambda each: Fraction(sum(weights[i] for i in each), sum(weights)) >= p)
    assert kept(keep_top_p(logits_of(weights), float(p))) == want


@settings(max_examples=40, deadline=None)
@given(weights=WEIGHTS, k=st.integers(1, V + 3))
def test_top_k_keeps_exactly_k(weights, k):
    want = best_set(weights, lambda each: len(each) == min(k, V))
    assert kept(keep_top_k(logits_of(weights), k)) == want


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(st.integers(1, 99), min_size=V, max_size=V), share=st.integers(1, 99))
def test_min_p_keeps_a_share_of_the_largest(weights, share):
    p = Fraction(min(share, max(weights)), max(weights))
    weights[0] = p.numerator * max(weights) // p.denominator  # exactly at the edge
    want = {i for i, weight in enumerate(weights) if weight >= p * max(weights)}
    assert kept(keep_min_p(logits_of(weights), float(p))) == want


@pytest.mark.parametrize(
    ("probs", "p", "count"),
    [
        ([0.3, 0.1, 0.1, 0.5], 0.8, 2),
        ([0.1] * 10, 0.2, 2),
        ([1 / 50_257] * 50_257, 0.5, 25_129),
        ([0.5, 0.5], 1e-9, 1),
        ([0.25] * 4, 1 - 1e-7, 4),
    ],
)
def test_top_p_with_equal_probabilities(probs, p, count):
    found = kept(keep_top_p(jnp.log(jnp.asarray([probs], jnp.float32)), p))
    assert len(found) == pytest.approx(count, abs=0.0001 * len(probs))  # float32 sums of 25,000 probabilities
    assert len(probs) > 10 or found == set(np.argsort(-np.array(probs), kind="stable")[:count].tolist())


def test_zeros_of_both_signs_are_equal():
    logits = jnp.array([[-0.0, 0.0, -0.0, 0.0]])
    assert kept(keep_top_k(logits, 2)) == kept(keep_top_p(logits, 0.5)) == {0, 1}


EXTREME = st.sampled_from([-3e38, -1e30, -7.0, -0.0, 0.0, 1e-30, 2.0, 1e30, 3e38])


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(EXTREME, min_size=4, max_size=4),
    temperature=st.sampled_from([1.2e-38, 1e-30, 1.0, 3.4e38]),
    top_k=st.sampled_from([0, 1, 100]),
    top_p=st.sampled_from([1e-9, 0.5, 1.0]),
    min_p=st.sampled_from([0.0, 1.2e-38, 1.0]),
    penalty=st.sampled_from([1.2e-38, 1.0, 3.4e38]),
    seen=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_extreme_values_leave_a_distribution(logits, temperature, top_k, top_p, min_p, penalty, seen):
    options = Text(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty, min_length=1, end=3
    )
    found = process(jnp.array([logits], jnp.float32), options, jnp.array([seen]), jnp.zeros(1, jnp.int32))
    probs = jax.nn.softmax(found)
    assert float(probs.sum()) == pytest.approx(1, abs=1e-6) and probs[0, 3] == 0
    if penalty == 1 and temperature < 1e-30 and max(logits[:3]) >= 2 > sorted(logits[:3])[-2]:
        assert draw_token(jnp.array([0.999]), found, options)[0] == np.argmax(logits[:3])


def test_a_penalty_that_silences_all_leaves_them_equal():
    found = penalise(jnp.full((1, 3), -1e10), jnp.ones((1, 3), bool), 1e30)
    np.testing.assert_allclose(jax.nn.softmax(tempered(found, 1.0)), 1 / 3, rtol=1e-6)


def test_filters_are_applied_in_the_order_of_hugging_face():
    """Each pair in the other order gives another set."""
    weights = [8, 4, 2, 1]

    def left(**options):
        return kept(process(logits_of(weights), Text(**options)))

    assert left(temperature=0.5, top_p=0.94) == {0, 1}  # 64, 16, 4, 1 of 85
    assert left(top_k=2, top_p=0.66) == {0}  # 8 of 12
    assert left(top_p=0.66, min_p=0.5) == {0, 1}  # 8 of 15 is not enough
    assert left(temperature=2.0, min_p=0.5) == {0, 1, 2}  # 1, 0.71, 0.5, 0.35 of the largest
