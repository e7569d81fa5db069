"""The evaluator captions, with models that draw what they are asked for, and what they are not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluating import STATE, batched
from loading import load
from members import asks

from gen_jax import evaluators
from gen_jax.core import drawings
from gen_jax.core.captions import Captions
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import Context
from gen_jax.text import WordTokenizer

KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Painter:
    """Draws what the caption says, `shift` captions later."""

    vocab: int = 26
    shift: int = 0

    def sample(self, state, rng, n, options):
        decode = WordTokenizer(drawings.words()).decode
        rng = np.random.default_rng(0)
        found = [drawings.scenes()[text] for text in options.titles(n, self.vocab, decode)]
        return jnp.asarray(np.roll([drawings.draw(scene, 24, rng) for scene in found], -self.shift, axis=0))


@pytest.fixture(scope="module")
def shapes():
    return load(source="shapes", examples=400, test=0.2)


def evaluator(shapes, model, section=None, **info):
    context = Context(
        model,
        dataclasses.replace(shapes.info, **info),
        lambda split: batched(shapes.arrays[split], 32),
        32,
        shapes.tokenizer.decode,
        KEY,
        **asks(Captions, shapes.info, shapes.tokenizer.encode),
    )
    return evaluators.build(evaluators.parse({"type": "captions", "n": 50} | (section or {})), context)


def test_pictures_are_held_against_their_captions(shapes, written):
    report = evaluator(shapes, Painter())(STATE)
    names = ("colour", "count", "position", "shape")
    assert [report.scalars[f"{name}@n_fake=50"] for name in names] == [1.0] * 4
    chance = [report.scalars[f"{name}_chance@n_real=50"] for name in names]
    assert max(chance[0], chance[3]) < 0.2 and max(chance) < 0.8
    wrong = evaluator(shapes, Painter(shift=1))(STATE).scalars
    assert [wrong[f"{name}@n_fake=50"] for name in names] == pytest.approx(chance, abs=0.1)
    assert report.images["captions"].shape[2] == 3
    first = shapes.tokenizer.decode(shapes.arrays["test"]["caption"][0])
    lines = [text for text in written if text and first.startswith(text)]
    assert lines, "a caption stands below its picture, in lines"


@pytest.mark.parametrize(
    ("model", "section", "info", "message"),
    [
        (Painter(vocab=0), {}, {}, "captions: expected a model of captions, not Painter"),
        (Painter(), dict(sampling=dict(captions=["a red circle"])), {}, "captions: sampling.captions: expected none"),
        (Painter(), {}, dict(vocab_size=5), "captions: expected captions of the source shapes"),
    ],
)
def test_what_cannot_be_judged_is_refused(shapes, model, section, info, message):
    with pytest.raises(ConfigError, match=message):
        evaluator(shapes, model, section, **info)
