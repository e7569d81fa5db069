"""The sampler: processors against NumPy, unequal prompts, the end of a text, a full cache, streaming."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax.core.filters import keep_top_k
from gen_jax.core.generate import draw_token, generate, process, rows, stream
from gen_jax.core.sampling import Text

ROOT = jax.random.key(0)
V = 7


@dataclasses.dataclass(frozen=True)
class Window:
    """Logits by the sum of all tokens in the cache, each weighed by its place there: what is lost shows."""

    capacity: int | None = None

    def prefill(self, state, tokens, size, condition):
        assert self.capacity is None or size <= self.capacity
        kept = jnp.zeros((len(tokens), size), jnp.int32).at[:, : tokens.shape[1]].set(tokens)
        return {"kept": kept, "position": jnp.int32(tokens.shape[1])}

    def decode_token(self, state, cache, token):
        kept = jax.lax.dynamic_update_index_in_dim(cache["kept"], token, cache["position"], axis=1)
        return self._logits(state, kept), {"kept": kept, "position": cache["position"] + 1}

    @staticmethod
    def _logits(state, kept):
        total = (kept * (1 + jnp.arange(kept.shape[1]))).sum(axis=1)
        return jnp.sin(state * (1 + total[:, None]) * (1 + jnp.arange(V)))


def numpy_process(logits, options, seen, fresh):
    """The processors written out for one row, in float64."""
    out = np.array(logits, np.float64)
    for v in range(len(out)):
        if seen[v]:
            out[v] = out[v] / options.repetition_penalty if out[v] > 0 else out[v] * options.repetition_penalty
    if options.end is not None and fresh < options.min_length:
        out[options.end] = -np.inf
    out /= options.temperature
    if options.top_k:
        out[np.argsort(-out, kind="stable")[options.top_k :]] = -np.inf
    if options.top_p < 1:
        probs = np.exp(out - out.max()) / np.exp(out - out.max()).sum()
        order = np.argsort(-probs, kind="stable")
        total, kept = 0.0, set()
        for v in order:
            if total >= options.top_p:
                break
            kept.add(v)
            total += probs[v]
        out[[v for v in range(len(out)) if v not in kept]] = -np.inf
    if options.min_p:
        out[np.exp(out - out.max()) < options.min_p] = -np.inf
    return out


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 50]),
    top_p=st.sampled_from([1.0, 0.9, 0.37, 0.01]),
    min_p=st.sampled_from([0.0, 0.1, 0.6]),
    penalty=st.sampled_from([1.0, 1.3, 0.8]),
    min_length=st.sampled_from([0, 2]),
)
def test_processors_equal_numpy(seed, temperature, top_k, top_p, min_p, penalty, min_length):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, V)).astype(np.float32) * 3
    seen, fresh = rng.random((3, V)) < 0.4, np.array([0, 1, 5], np.int32)
    options = Text(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=penalty,
        min_length=min_length,
        end=2,
    )
    ours = process(jnp.asarray(logits), options, jnp.asarray(seen), jnp.asarray(fresh))
    theirs = np.stack([numpy_process(*row) for row in zip(logits, [options] * 3, seen, fresh, strict=True)])
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(theirs))
    shifted = theirs - theirs.max(axis=-1, keepdims=True)  # ours has its largest at 0
    np.testing.assert_allclose(ours, shifted, rtol=1e-5, atol=1e-5)


def greedy(state, prompt, length, capacity=None):
    """Written out: the whole text each time, without a cache, or the window that the cache would hold."""
    text, first, kept = list(prompt), 0, max(1, (capacity or 0) // 2)
    for _ in range(length):
        if capacity and len(text) - first > capacity:
            first = len(text) - kept
        window = text[first:] + [0] * ((capacity or len(prompt) + length) - len(text) + first)
        text.append(int(Window._logits(state, jnp.asarray([window]))[0].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("capacity", [None, 64, 6])
def test_greedy_rows_of_unequal_prompts_equal_those_alone(capacity):
    prompts = ((1, 2, 3, 4), (5,), (6, 1))
    options = Text(temperature=0.0, length=9, prompts=prompts)
    tokens, lengths = generate(Window(capacity), 0.7, ROOT, *rows(options.prompts, 3), options)
    assert lengths.tolist() == [9, 9, 9]
    if capacity is None:
        # the toy model weighs places by the size of the cache, which the longest row sets
        for row, prompt in zip(tokens, prompts, strict=True):
            assert row.tolist() == greedy(0.7, prompt, 9)
    for i, prompt in enumerate(prompts if capacity != 6 else ()):
        alone = options.model_copy(update={"prompts": (prompt,)})
        assert (
            generate(Window(capacity), 0.7, ROOT, *rows(alone.prompts, 1), alone)[0][0].tolist() == tokens[i].tolist()
        )


@pytest.mark.parametrize("length", [4, 5, 6, 7, 8, 9, 23])
def test_a_full_cache_is_refilled_with_its_later_half(length):
    options = Text(temperature=0.0, length=length, prompts=((1, 2, 3),))
    tokens, _ = generate(Window(6), 0.7, ROOT, *rows(options.prompts, 2), options)
    assert tokens[0].tolist() == greedy(0.7, (1, 2, 3), length, capacity=6)


def test_a_prompt_longer_than_the_cache():
    options = Text(temperature=0.0, length=4, prompts=(tuple(i % V for i in range(20)),))
    tokens, _ = generate(Window(6), 0.7, ROOT, *rows(options.prompts, 1), options)
    assert tokens[0].tolist() == greedy(0.7, options.prompts[0], 4, capacity=6)


def test_a_row_depends_on_its_own_key_and_prompt():
    options = Text(length=12, prompts=((1, 2), (3, 4, 5, 6)))
    pair, _ = generate(Window(64), 0.3, ROOT, *rows(options.prompts, 2), options)
    alone = options.model_copy(update={"prompts": ((1, 2),)})
    np.testing.assert_array_equal(pair[0], generate(Window(64), 0.3, ROOT, *rows(alone.prompts, 1), alone)[0][0])
    again, _ = generate(Window(), 0.3, jax.random.key(1), *rows(options.prompts, 2), options)
    assert not np.array_equal(pair, again)


def test_the_draw_follows_the_probabilities():
    options = Text(length=1, prompts=((1,),))
    tokens, _ = generate(Window(), 0.3, ROOT, *rows(options.prompts, 4000), options)
    logits = Window._logits(0.3, jnp.asarray([[1]]))[0]
    found = np.bincount(np.asarray(tokens[:, 0]), minlength=V) / 4000
    np.testing.assert_allclose(found, jax.nn.softmax(logits), atol=0.025)


def test_an_end_stops_a_row_and_min_length_puts_it_off():
    options = Text(length=40, end=3, prompts=((1,), (2, 3)))
    tokens, lengths = jax.device_get(generate(Window(), 0.3, ROOT, *rows(options.prompts, 8), options))
    assert lengths.min() < 40  # the end comes up
    for row, size in zip(tokens, lengths, strict=True):
        ends = np.flatnonzero(row == 3)
        assert size == (ends[0] + 1 if len(ends) else 40)
        assert (row[size:] == 0).all()
    late = options.model_copy(update={"min_length": 10})
    tokens, lengths = jax.device_get(generate(Window(), 0.3, ROOT, *rows(late.prompts, 8), late))
    assert lengths.min() > 10 and not (tokens[:, :10] == 3).any()


def test_a_huge_penalty_never_repeats():
    options = Text(length=5, repetition_penalty=1e9, temperature=0.0, prompts=((1, 4),))

    class Positive(Window):
        @staticmethod
        def _logits(state, kept):
            return 2 + Window._logits(state, kept)

    tokens, _ = generate(Positive(), 0.3, ROOT, *rows(options.prompts, 1), options)
    assert sorted(tokens[0].tolist()) == [0, 2, 3, 5, 6]


@pytest.mark.parametrize("capacity", [None, 6])
def test_streaming_gives_the_same_tokens(capacity):
    options = Text(length=15, end=3, prompts=((1, 2, 3, 4), (5,), (6, 1)))
    prompt, lengths = rows(options.prompts, 3)
    tokens, sizes = jax.device_get(generate(Window(capacity), 0.3, ROOT, prompt, lengths, options))
    written = [[], [], []]
    for token, new in stream(Window(capacity), 0.3, ROOT, prompt, lengths, options):
        for b in np.flatnonzero(new):
            written[b].append(int(token[b]))
    assert written == [row[:size].tolist() for row, size in zip(tokens, sizes, strict=True)]


def test_a_model_can_draw_its_own_values():
    options = Text(length=4)

    def draw(keys, outputs, options):
        return outputs[:, 0] * 2

    tokens, _ = generate(Window(), 0.3, ROOT, np.ones((2, 1), np.int32), [1, 1], options, draw=draw)
    assert tokens.shape == (2, 4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, V))
def test_what_cannot_be_drawn_is_never_drawn(seed, k):
    """Cumulative sums round: at the ends of the range and beside masked tokens too."""
    logits = np.random.default_rng(seed).normal(size=(1, V)).astype(np.float32) * 5
    kept = keep_top_k(jnp.asarray(logits), k)
    uniform = jnp.linspace(0, 1 - 2**-23, 64)
    tokens = draw_token(uniform, jnp.broadcast_to(kept, (64, V)), Text())
    assert np.isfinite(np.asarray(kept)[0, np.asarray(tokens)]).all()
    assert (np.diff(tokens) >= 0).all()
