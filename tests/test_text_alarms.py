"""The text evaluator's alarms: loops are distinguished from text, and the options reach the model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import asks

from gen_jax import evaluators
from gen_jax.core.sampling import Text
from gen_jax.core.state import State
from gen_jax.data import Info
from gen_jax.evaluators import text
from gen_jax.evaluators.evaluator import Context
from gen_jax.metrics import text as metrics
from gen_jax.runs.metric_tags import name_of
from gen_jax.text import CharTokenizer

STATE = State(jnp.zeros((), jnp.int32), {})
TOKENIZER = CharTokenizer.of("abcdefghijklmnopqrstuvwxyz ")
REAL = np.random.default_rng(0).integers(0, 27, 2001).astype(np.int32)
ASKED = []


@dataclasses.dataclass(frozen=True)
class Writer:
    """Letters in a loop of `period`, or drawn."""

    period: int

    def sample(self, state, rng, n, options):
        ASKED.append(options)
        tokens = jax.random.randint(rng, (n, options.length), 0, 27)
        if self.period:
            tokens = jnp.tile(tokens[:, : self.period], (1, options.length))[:, : options.length]
        return tokens, jnp.full(n, options.length)


def report(period=0, end=None, real=REAL, **section):
    """Its scalars by their names alone, for what is asked of samples is in each tag."""
    found = evaluated(period, end, real, **section)
    return dataclasses.replace(found, scalars={name_of(tag): value for tag, value in found.scalars.items()})


def test_tags_say_how_texts_were_drawn():
    found = evaluated(sampling={"length": 80, "temperature": 0.5}).scalars
    assert found.keys() >= {
        f"{name}@sampling.length=80,sampling.temperature=0.5" for name in ("repetition", "real_self_bleu")
    }
    assert "repetition" in evaluated(sampling={}).scalars


def evaluated(period=0, end=None, real=REAL, **section):
    batch = {"tokens": jnp.asarray(real)[None], "valid": jnp.ones(1, bool), "index": jnp.zeros(1, jnp.int32)}
    info = Info("tokens", (9,), vocab_size=27, end=end)
    context = Context(
        Writer(period),
        info,
        lambda split: iter([batch]),
        1,
        TOKENIZER.decode,
        jax.random.key(0),
        TOKENIZER.encode,
        **asks(Text, info, TOKENIZER.encode),
    )
    section = {"type": "text", "sampling": {"length": 80}, "repetition_n": 4} | section
    return evaluators.build(evaluators.parse(section), context)(STATE)


def test_varied_samples_are_like_real_text():
    found = report()
    names = ["distinct_2", "repetition", "self_bleu"]
    assert set(found.scalars) == {*names, *(f"real_{name}" for name in names)}
    assert found.scalars["distinct_2"] > 0.5 and not found.warnings
    # 16 pieces of 80 of the 2,000 targets, from every 125th on
    real = [TOKENIZER.decode(REAL[1 + 125 * i :][:80]) for i in range(16)]
    assert found.scalars["real_repetition"] == metrics.repetition(real, 4)
    assert found.scalars["real_self_bleu"] == metrics.self_bleu(real)


@pytest.mark.parametrize("period", [1, 5])
def test_loops_raise_the_alarm(period):
    found = report(period)
    assert found.scalars["repetition"] == pytest.approx(1 - period / 77)
    assert len(found.warnings) == 1 and "repeat themselves" in found.warnings[0]
    assert not report(period, alarm_factor=1000.0).warnings


def test_the_first_samples_are_shown_whatever_is_measured():
    shown = [report(n=2, alarm_n=alarm_n).texts["samples"] for alarm_n in (0, 16)]
    assert shown[0].count("```text") == shown[1].count("```text") == 2
    assert not report(alarm_n=0).scalars


def test_a_split_too_short_has_no_real_numbers():
    assert sorted(report(real=REAL[:100]).scalars) == ["distinct_2", "repetition", "self_bleu"]
    assert [len(one) for one in text.pieces(np.arange(100), [30, 20, 10, 5])] == [30, 20, 10]


def test_options_reach_the_model():
    asked = dict(length=80, prompts=["ab"], temperature=0.0, top_k=5, top_p=0.9, repetition_penalty=1.2)
    report(end=3, sampling=asked)
    options = ASKED[-1]
    assert (options.end, options.prompts, options.temperature) == (3, ((1, 2),), 0)
    assert (options.top_k, options.top_p, options.repetition_penalty, options.length) == (5, 0.9, 1.2, 80)
    with pytest.raises(ValueError, match=r"prompts: .*'A'"):
        report(sampling={"prompts": ["A"]})
