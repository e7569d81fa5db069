"""Beam search against exhaustive search, greedy decoding and the model's own probabilities."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.core import beam
from gen_jax.core.generate import generate
from gen_jax.core.sampling import Text
from gen_jax.errors import ConfigError
from gen_jax.models.base import Autoregressive

V, D, B, END = 3, 6, 3, 1


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """h' = tanh(W h + e(token)), logits = U h'; `condition["start"]` [B, D] is the first h."""

    end_bias: float = 0.0
    capacity: None = None

    def init(self, seed=0):
        keys = jax.random.split(jax.random.key(seed), 3)
        shapes = {"w": (D, D), "e": (V, D), "u": (D, V)}
        return {name: 1.5 * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}

    def prefill(self, state, tokens, size, condition):
        cache = {"h": condition["start"], "index": jnp.int32(0)}
        for t in range(tokens.shape[1]):
            _, cache = self.decode_token(state, cache, tokens[:, t])
        return cache

    def decode_token(self, state, cache, token):
        h = jnp.tanh(cache["h"] @ state["w"] + state["e"][token])
        logits = h @ state["u"] + self.end_bias * (jnp.arange(V) == END)
        return logits, {"h": h, "index": cache["index"] + 1}

    def logits(self, state, batch):
        raise NotImplementedError


MODEL = Recurrent()
STATE = MODEL.init()
PROMPT = np.array([[2, 0], [0, 0], [1, 2]], np.int32)
CONDITION = {"start": jax.random.normal(jax.random.key(7), (B, D))}


def run(model=MODEL, prompt=PROMPT, condition=CONDITION, **options):
    search = jax.jit(functools.partial(beam.search, model, options=Text(**{"end": END, **options})))
    return jax.device_get(search(STATE, prompt, condition=condition))


def log_p(tokens, row, model=MODEL):
    """Of one continuation of a row's prompt, token by token."""
    one = jax.tree.map(lambda x: x[row : row + 1], CONDITION)
    cache = model.prefill(STATE, jnp.asarray(PROMPT[row : row + 1, :-1]), 9, one)
    before, total = int(PROMPT[row, -1]), 0.0
    for token in tokens:
        logits, cache = model.decode_token(STATE, cache, jnp.array([before]))
        total += float(jax.nn.log_softmax(logits)[0, token])
        before = int(token)
    return total


def sequences(length, end):
    """All that end with `end`, or are `length` long."""
    for size in range(1, length + 1):
        for tokens in itertools.product(range(V), repeat=size):
            if end not in tokens[:-1] and (size == length or tokens[-1] == end):
                yield tokens


@pytest.mark.parametrize("end", [END, None])
@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_enough_beams_find_the_best_of_all_sequences(penalty, end):
    length = 3
    found = run(beams=V**length, length=length, length_penalty=penalty, end=end)
    for row in range(B):
        score = {one: log_p(one, row) / len(one) ** penalty for one in sequences(length, end)}
        best = max(score, key=score.get)
        assert found.tokens[row, 0, : found.lengths[row, 0]].tolist() == list(best)
        assert found.scores[row, 0] == pytest.approx(score[best], abs=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_enough_beams_find_the_n_best_of_all_sequences(penalty):
    """Also where the best is finished early and the others are long."""
    length, n = 3, 9
    options = Text(beams=V**length, length=length, length_penalty=penalty, end=END, prompts=((0,), (1,)))
    prompt, condition = np.tile(PROMPT[:2], (n, 1)), jax.tree.map(lambda x: jnp.tile(x[:2], (n, 1)), CONDITION)
    run = jax.jit(functools.partial(beam.sample, MODEL, lengths=[2] * 2 * n, options=options, distinct=2))
    tokens, lengths = jax.device_get(run(STATE, jax.random.key(0), prompt, condition=condition))
    for row in range(2):
        score = {one: log_p(one, row) / len(one) ** penalty for one in sequences(length, END)}
        found = [tuple(tokens[i, : lengths[i]].tolist()) for i in range(row, 2 * n, 2)]
        assert found == sorted(score, key=score.get, reverse=True)[:n]


def test_fewer_beams_than_asked_for_wait_for_as_many_as_are():
    """The first ends at once; without `best`, the search would stop there."""
    model = Recurrent(30.0)
    options = Text(beams=3, length=4, length_penalty=0.0, end=END)
    found = beam.search(model, STATE, jnp.asarray(PROMPT), options, CONDITION, best=3)
    assert (found.scores > beam.NEVER / 2).all() and (found.lengths[:, 0] == 1).all()


@pytest.mark.parametrize(
    ("options", "each", "says"),
    [
        ({"temperature": 0.0}, 1, "temperature: expected 1.0 beside beams"),
        ({"top_k": 3}, 1, "top_k: expected 0 beside beams"),
        ({"top_p": 0.5}, 1, "top_p: expected 1.0 beside beams"),
        ({"min_p": 0.5}, 1, "min_p: expected 0.0 beside beams"),
        ({"repetition_penalty": 2.0}, 1, "repetition_penalty: expected 1.0 beside beams"),
        ({"length_penalty": 1.0, "beams": 0}, 1, "length_penalty: expected 0.6 without beams"),
        ({"min_length": 4}, 1, "min_length: expected at most the length, 3, got 4"),
        ({}, 3, "n: expected at most 2 of each prompt, the beams, got 3"),
    ],
)
def test_a_search_refuses_what_it_cannot_honour(options, each, says):
    with pytest.raises((ConfigError, ValueError), match=says):
        beam.sample(
            MODEL, STATE, jax.random.key(0), PROMPT[:1].repeat(each, 0), [2] * each,
            Text(**{"beams": 2, "length": 3, **options}), CONDITION, distinct=1,
        )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"length_penalty": 1.0}, {"min_length": 3}, {"end": None}])
def test_one_beam_is_greedy(options):
    found = run(beams=1, length=6, **options)
    drawn = {name: value for name, value in options.items() if name != "length_penalty"}  # which ranks hypotheses
    greedy = Text(**{"end": END, "temperature": 0.0, "length": 6, **drawn})
    tokens, lengths = generate(MODEL, STATE, jax.random.key(0), PROMPT, [2] * B, greedy, CONDITION)
    np.testing.assert_array_equal(found.tokens[:, 0], tokens)
    np.testing.assert_array_equal(found.lengths[:, 0], lengths)
    if "min_length" in options:
        assert (lengths > 3).all()


@pytest.mark.parametrize("beams", [2, 4])
def test_scores_are_the_models_own_log_p(beams):
    found = run(beams=beams, length=5, length_penalty=0.6)
    for row, k in itertools.product(range(B), range(beams)):
        if found.scores[row, k] > beam.NEVER / 2:
            tokens = found.tokens[row, k, : found.lengths[row, k]]
            assert found.log_probs[row, k] == pytest.approx(log_p(tokens, row), abs=1e-5)
            assert found.scores[row, k] == pytest.approx(found.log_probs[row, k] / len(tokens) ** 0.6, rel=1e-5)
            assert END not in tokens[:-1] and (tokens[-1] == END or len(tokens) == 5)
            assert (found.tokens[row, k, len(tokens) :] == 0).all()
    assert (found.scores[:, 0] > beam.NEVER / 2).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_a_row_does_not_depend_on_its_company():
    together = run(beams=3, length=5)
    for row in range(B):
        alone = run(
            prompt=PROMPT[row : row + 1], condition={"start": CONDITION["start"][row : row + 1]}, beams=3, length=5
        )
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Counted(Recurrent):
    """Notes every call while it runs."""

    calls: list = dataclasses.field(default_factory=list, hash=False)

    def decode_token(self, state, cache, token):
        jax.debug.callback(lambda: self.calls.append(1))
        return super().decode_token(state, cache, token)


@pytest.mark.parametrize(("bias", "penalty", "steps"), [(30.0, 0.0, 1), (-30.0, 0.0, 8), (0.0, 0.0, None)])
def test_it_stops_when_nothing_can_beat_what_is_finished(bias, penalty, steps):
    model = Counted(bias)
    found = run(model, PROMPT[:, :1], beams=2, length=8, length_penalty=penalty)
    jax.effects_barrier()
    assert steps is None or len(model.calls) == steps
    if steps is None:  # and what it found is still the best of all that two beams reach
        assert len(model.calls) < 8
        assert (found.lengths[:, 0] < 8).all()


def test_the_oracle_keeps_the_protocol():
    assert isinstance(MODEL, Autoregressive)
