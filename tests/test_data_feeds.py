"""Batches against what they must add up to: each example once an epoch, each target once an evaluation."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax.data.datasets import ExampleSet, TokenSet
from gen_jax.data.source import Info
from gen_jax.errors import ConfigError

N = 37


def examples(n=N, seed=3):
    arrays = {
        "train": {"vector": np.arange(n, dtype=np.float32)[:, None]},
        "test": {"vector": np.ones((5, 1), np.float32)},
    }
    return ExampleSet(Info("vector", (1,)), arrays, seed)


def text(length=1000, context=7, order="streams", seed=3):
    tokens = np.random.default_rng(0).integers(0, 256, length).astype(np.uint8)
    return TokenSet(Info("tokens", (context + 1,), vocab_size=256), {"train": tokens, "test": tokens}, seed, order)


FEEDS = {
    "permuted": lambda: examples().train_feed(8),
    "in_order": lambda: examples().eval_feed("train", 8),
    "windows": lambda: text(order="windows").train_feed(8),
    "permuted_windows": lambda: text(order="permuted").train_feed(8),
    "streams": lambda: text().train_feed(8),
    "eval_tokens": lambda: text().eval_feed("test", 8),
}


def batch(feed, step):
    return jax.tree.map(np.asarray, feed.assemble(feed.resident, feed.rows(step)))


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 9))
def test_each_example_once_an_epoch(n, batch_size, seed):
    feed = examples(n, seed).train_feed(batch_size)
    epochs = 3
    seen = np.concatenate([feed.rows(step)["index"] for step in range(-(-epochs * n // batch_size))])
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_epochs_and_seeds_have_other_orders():
    first, second = (examples(seed=3).train_feed(N).rows(step)["index"].tolist() for step in (0, 1))
    other = examples(seed=4).train_feed(N).rows(0)["index"].tolist()
    assert first != second and first != other and first != list(range(N))


@pytest.mark.parametrize("name", FEEDS)
def test_rows_depend_on_seed_and_step_alone(name):
    feed, again = FEEDS[name](), FEEDS[name]()
    steps = range(min(feed.num_batches or 12, 12))
    forward = [feed.rows(step) for step in steps]
    for step in reversed(steps):  # another order of calls, as after a resume
        jax.tree.map(np.testing.assert_array_equal, forward[step], again.rows(step))


@pytest.mark.parametrize("name", FEEDS)
def test_parts_make_the_whole(name):
    feed = FEEDS[name]()
    for step in (0, 4):
        whole = feed.rows(step)
        parts = [feed.rows(step, part) for part in (slice(0, 2), slice(2, 3), slice(3, 8))]
        jax.tree.map(np.testing.assert_array_equal, whole, jax.tree.map(lambda *p: np.concatenate(p), *parts))


@pytest.mark.parametrize("name", FEEDS)
def test_assemble_compiles_and_keeps_types(name):
    feed = FEEDS[name]()
    made = jax.jit(feed.assemble)(feed.resident, feed.rows(1))
    assert made["index"].dtype == np.int32 and made["index"].shape == (8,)
    assert made["valid"].dtype == bool
    jax.tree.map(np.testing.assert_array_equal, batch(feed, 1), jax.tree.map(np.asarray, made))


def test_batches_hold_the_examples_of_their_index():
    made = batch(examples().train_feed(8), 11)
    np.testing.assert_array_equal(made["vector"][:, 0], made["index"])
    assert made["valid"].all()


def test_evaluation_sees_each_example_once_in_order():
    feed = examples().eval_feed("train", 8)
    assert feed.num_batches == 5
    batches = [batch(feed, step) for step in range(feed.num_batches)]
    seen = np.concatenate([made["index"][made["valid"]] for made in batches])
    assert seen.tolist() == list(range(N))
    assert batches[-1]["valid"].sum() == N - 32


def test_added_arrays_follow_their_examples():
    codes = {
        "train": {"codes": np.arange(N, dtype=np.int32)[:, None] * 2},
        "test": {"codes": np.zeros((5, 1), np.int32)},
    }
    made = batch(examples().with_arrays(codes).train_feed(8), 2)
    np.testing.assert_array_equal(made["codes"][:, 0], made["index"] * 2)
    with pytest.raises(ValueError, match="codes"):
        examples().with_arrays({"train": {"codes": np.zeros(3)}})


@settings(deadline=None, max_examples=12)
@given(length=st.integers(60, 300), context=st.integers(1, 9), batch_size=st.integers(1, 6))
def test_streams_go_on_exactly(length, context, batch_size):
    dataset = text(length, context)
    feed, tokens = dataset.train_feed(batch_size), dataset.tokens["train"]
    stretch = (length - 1) // batch_size
    windows = stretch // context
    batches = [batch(feed, step) for step in range(windows + 1)]
    for row in range(batch_size):
        read = np.concatenate([made["tokens"][row, :-1] for made in batches[:windows]])
        np.testing.assert_array_equal(read, tokens[row * stretch :][: windows * context])
        np.testing.assert_array_equal(batches[0]["tokens"][row], batches[windows]["tokens"][row])  # starts again
    for made in batches:
        np.testing.assert_array_equal(made["tokens"].shape, (batch_size, context + 1))
    assert [made["reset"].all() for made in batches] == [True] + [False] * (windows - 1) + [True]
    assert not any(made["reset"].any() for made in batches[1:windows])


@settings(deadline=None, max_examples=16)
@given(length=st.integers(2, 300), context=st.integers(1, 30), batch_size=st.integers(1, 9))
def test_evaluation_counts_every_target_once_and_resumes(length, context, batch_size):
    dataset = text(length, context)
    feed, tokens = dataset.eval_feed("test", batch_size), dataset.tokens["test"]
    assert feed.num_batches is not None
    counted, rows = np.zeros(length, int), [[] for _ in range(batch_size)]
    for step in range(feed.num_batches):
        made = batch(feed, step)
        assert made["reset"].tolist() == [step == 0] * batch_size
        place = made["index"][:, None] * context + np.arange(context) + 1  # of each target in the text
        keep = made["mask"].astype(bool)
        assert not keep[~made["valid"]].any()
        assert keep[made["valid"]].any(1).all()
        np.testing.assert_array_equal(made["tokens"][:, 1:][keep], tokens[place[keep]])
        np.testing.assert_array_equal(made["tokens"][:, :-1][keep], tokens[place[keep] - 1])
        np.add.at(counted, place[keep], 1)
        for row in range(batch_size):
            rows[row] += place[row][keep[row]].tolist()
    assert counted[0] == 0 and (counted[1:] == 1).all()
    for places in rows:  # a carry continues from window to window
        assert np.all(np.diff(places) == 1)


def test_windows_start_anywhere_and_stay_inside():
    feed = text(20, 7, "windows").train_feed(64)
    offset = np.concatenate([feed.rows(step)["offset"] for step in range(20)])
    assert set(offset.tolist()) == set(range(13))


def test_permuted_windows_cover_the_text_once_an_epoch():
    feed = text(101, 10, "permuted").train_feed(4)
    offset = np.concatenate([feed.rows(step)["offset"] for step in range(5)])
    assert sorted(offset[:10]) == sorted(offset[10:]) == list(range(0, 100, 10))


@pytest.mark.parametrize("order", ["windows", "permuted", "streams"])
def test_a_text_too_short_for_the_context_is_refused(order):
    with pytest.raises(ConfigError, match=r"data\.context: expected at most 6"):
        text(7, 7, order).train_feed(1)
    text(8, 7, order).train_feed(1)


def test_rows_too_short_for_the_context_are_refused():
    with pytest.raises(ConfigError, match=r"data\.context: expected at most 6"):
        text(50, 7).train_feed(8)


def test_a_split_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="train, test, found 'validation'"):
        examples().eval_feed("validation", 4)


def test_joined_splits_are_read_as_one_text():
    tokens = {"train": np.arange(50), "validation": np.arange(50, 63), "test": np.arange(63, 80)}
    tokens = {split: array.astype(np.uint8) for split, array in tokens.items()}
    dataset = TokenSet(Info("tokens", (8,), vocab_size=256), tokens, 0, "windows")
    feed = dataset.eval_feed("validation+test", 3)
    batches = [batch(feed, step) for step in range(feed.num_batches)]
    read = {
        int(i): row[1:][keep > 0]
        for made in batches
        for i, row, keep in zip(*(made[k] for k in ("index", "tokens", "mask")), strict=True)
    }
    assert np.concatenate([read[i] for i in sorted(read)]).tolist() == list(range(51, 80))


def test_joined_splits_of_examples_follow_each_other():
    feed = examples().eval_feed("test+train", 8)
    rows = [made["vector"][made["valid"]] for made in (batch(feed, step) for step in range(feed.num_batches))]
    assert np.concatenate(rows)[:, 0].tolist() == [1.0] * 5 + list(range(N))
    streamed = ExampleSet(Info("vector", (1,)), {}, 0, {"test": dict}, {"train": 3, "test": 2})
    with pytest.raises(ConfigError, match="not several"):
        streamed.eval_feed("train+test", 8)


@pytest.mark.parametrize("split", ["validation+test", "test+test", "test+", "+"])
def test_an_unknown_part_of_joined_splits_is_refused(split):
    with pytest.raises(ConfigError, match=r"one of train, test or several joined by \+, found"):
        text().eval_feed(split, 4)
