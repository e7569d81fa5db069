"""The n-gram model against counts by hand, and its probabilities sum to 1."""

from collections import Counter

import numpy as np
import pytest

from gen_jax.metrics.ngram import NGram, apart

TEXT = np.frombuffer(b"abracadabra abacus", np.uint8)
VOCAB = 256


def by_hand(train, context, token, vocab):
    """Witten-Bell by its definition, with dictionaries."""
    if context is None:
        return 1 / vocab
    length = len(context)
    follow = Counter(train[i + length] for i in range(len(train) - length) if tuple(train[i : i + length]) == context)
    shorter = by_hand(train, context[1:] if context else None, token, vocab)
    total, kinds = sum(follow.values()), len(follow)
    return (follow[token] + kinds * shorter) / (total + kinds) if total else shorter


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_matches_a_count_by_hand(order):
    held_out = np.frombuffer(b"cadabra zabra", np.uint8)
    found = NGram.fit(TEXT, order, VOCAB).probabilities(held_out)
    tokens = held_out.tolist()
    expected = [
        by_hand(TEXT.tolist(), tuple(tokens[max(0, i - order + 1) : i]), tokens[i], VOCAB) for i in range(len(tokens))
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_records_apart_are_counted_each_by_itself(order):
    """Against dictionaries over each record with ends before it."""
    end = 0
    train, held_out = [[1, 2, 1], [2], [1, 2, 3, 3]], [[1, 2, 2], [3, 1]]

    def grams(records):
        for record in records:
            padded = [end] * (order - 1) + record + [end]
            for i in range(order - 1, len(padded)):
                yield tuple(padded[i - order + 1 : i]), padded[i]

    def expected(context, token, length):
        if length < 0:
            return 1 / 4
        short = context[len(context) - length :]
        follow = Counter(t for c, t in grams(train) if c[len(c) - length :] == short)
        shorter = expected(context, token, length - 1)
        total, kinds = sum(follow.values()), len(follow)
        return (follow[token] + kinds * shorter) / (total + kinds) if total else shorter

    flat = [np.array([t for record in records for t in (*record, end)]) for records in (train, held_out)]
    (tokens, counted), (held, own) = (apart(part, end, order) for part in flat)
    assert counted.sum() == 11 and len(tokens) == 11 + 3 * (order - 1)
    found = NGram.fit(tokens, order, 4, counted).probabilities(held)[own]
    np.testing.assert_allclose(found, [expected(c, t, order - 1) for c, t in grams(held_out)], rtol=1e-12)


@pytest.mark.parametrize("context", [b"abra", b"bzac", b"zzzz", b"a"])
def test_probabilities_of_all_tokens_sum_to_one(context):
    model = NGram.fit(TEXT, 5, VOCAB)
    rows = [np.append(np.frombuffer(context, np.uint8), np.uint8(token)) for token in range(VOCAB)]
    p = np.array([model.probabilities(row)[-1] for row in rows])
    assert (p > 0).all()
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)


def test_bits():
    uniform = np.random.default_rng(0).integers(0, 4, 20_000)
    assert abs(NGram.fit(uniform, 1, 4).bits_per_token(uniform) - 2) < 0.01  # log2 4
    periodic = np.tile([0, 1, 2], 1000)
    assert NGram.fit(periodic, 3, 4).bits_per_token(periodic) < 0.02
    assert NGram.fit(periodic, 1, 4).bits_per_token(periodic) > 1.5  # log2 3 without context


def test_bad_input():
    with pytest.raises(ValueError, match="vocab"):
        NGram.fit(TEXT, 8, VOCAB)
    with pytest.raises(ValueError, match="below 100"):
        NGram.fit(TEXT, 2, 100)
    with pytest.raises(ValueError, match="at least 5"):
        NGram.fit(TEXT[:3], 5, VOCAB)
