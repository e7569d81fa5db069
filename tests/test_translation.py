"""The evaluator of translations, with a model that copies its source."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import asks

from gen_jax.core.state import State
from gen_jax.data.packing import Sequences, one_a_row, rows_of_pairs
from gen_jax.data.source import Info
from gen_jax.errors import ConfigError
from gen_jax.evaluators import translation
from gen_jax.evaluators.evaluator import Context
from gen_jax.models.encoder_decoder import Sampling
from gen_jax.text import BPETokenizer, WithEnd

SOURCES = ["Ein Hund läuft durch das hohe Gras .", "Zwei Katzen schlafen auf dem roten Sofa .", "Drei Männer singen ."]
TOKENIZER = WithEnd(BPETokenizer.train(SOURCES, 300))


@dataclasses.dataclass(frozen=True)
class Copies:
    """Gives the source back, cut to what was asked for."""

    drop: int = 0

    def translate(self, state, rng, condition, options):
        assert (options.beams, options.length) == (5, 40)
        lengths = jnp.maximum(condition["source_segment"].sum(axis=1) - self.drop, 0)
        kept = jnp.arange(options.length) < lengths[:, None]
        source = jnp.pad(condition["source"], ((0, 0), (0, options.length)))[:, : options.length]
        return jnp.where(kept, source, 0), lengths


def context(references, model=None, kind="pairs"):
    sides = (Sequences.of([TOKENIZER.encode(one) for one in side], TOKENIZER.end) for side in (SOURCES, references))
    rows = rows_of_pairs(*sides, one_a_row(3), (32, 32), TOKENIZER.end)
    rows = {name: np.pad(array, ((0, 1), (0, 0)), mode="edge") for name, array in rows.items()}  # a row of padding
    rows["valid"] = np.array([True, True, True, False])
    info = Info(kind, (32, 33), vocab_size=TOKENIZER.vocab_size, end=TOKENIZER.end)
    halves = [{name: jnp.asarray(x[i : i + 2]) for name, x in rows.items()} for i in (0, 2)]
    return Context(
        model or Copies(),
        info,
        lambda split: iter(halves),
        2,
        TOKENIZER.decode,
        jax.random.key(0),
        **asks(Sampling, info),
    )


HOW = "@sampling.length=40,sampling.beams=5"


def evaluate(references, model=None, **fields):
    """Its scalars by their names alone; each tag says how translations were drawn."""
    cfg = translation.Config(type="translation", sampling={"length": 40, "beams": 5}, **fields)
    report = translation.from_config(cfg, context(references, model))(State(jnp.int32(0), {}))
    assert all(tag.endswith(HOW) for tag in report.scalars)
    return dataclasses.replace(report, scalars={tag.removesuffix(HOW): value for tag, value in report.scalars.items()})


def test_a_right_translation_scores_100_and_a_wrong_one_less():
    report = evaluate(SOURCES, metrics=("bleu", "exact", "rouge"))
    assert report.scalars["bleu"] == pytest.approx(100)
    assert report.scalars["exact"] == report.scalars["rouge_l"] == 1
    assert not report.warnings
    worse = evaluate([SOURCES[0], SOURCES[1].replace("roten", "alten"), SOURCES[2]], metrics=("bleu", "exact"))
    assert 0 < worse.scalars["bleu"] < 100
    assert worse.scalars["exact"] == pytest.approx(2 / 3)


def test_examples_and_signature_are_text():
    text = evaluate(SOURCES, examples=2).texts["translations"]
    assert "tok:13a" in text and "BLEU 100.00" in text
    assert text.count(SOURCES[1]) == 3  # source, reference, translation
    assert SOURCES[2] not in text


def test_only_the_first_examples_count_where_they_are_limited():
    report = evaluate([SOURCES[0], SOURCES[1], "ganz anders"], max_examples=2, metrics=("exact",))
    assert report.scalars == {"exact": 1}


def test_empty_translations_are_told():
    report = evaluate(SOURCES, Copies(drop=40), metrics=("exact",))
    assert report.scalars == {"exact": 0}
    assert report.warnings == ["translation: 3 of 3 translations are empty"]


def test_what_does_not_fit_is_refused():
    cfg = translation.Config(type="translation")
    with pytest.raises(ConfigError, match="a model that translates, not object"):
        translation.from_config(cfg, context(SOURCES, object()))
    with pytest.raises(ConfigError, match="expected pairs of texts, they are tokens"):
        translation.from_config(cfg, context(SOURCES, kind="tokens"))
