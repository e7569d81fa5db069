"""Units of text, and the n-gram model that a language model has to beat."""

import dataclasses
import math

import numpy as np
import pytest
from evaluating import STATE, TEXT, Weighted, build, decode, encode, streams, tokens_context

from gen_jax import evaluators
from gen_jax.core.state import Mean
from gen_jax.errors import ConfigError
from gen_jax.metrics.ngram import NGram


@dataclasses.dataclass(frozen=True)
class Uniform:
    """One of 16 tokens, all alike: 4 bits each."""

    def eval_step(self, state, batch, rng):
        weight = batch["mask"].sum(1)
        return {"loss": Mean(weight * math.log(16), weight)}


def test_units_of_text():
    found = evaluators.build(evaluators.parse({"type": "mean"}), tokens_context(Uniform()))(STATE).scalars
    assert found["bits_per_token"] == pytest.approx(4) and found["perplexity"] == pytest.approx(16)
    read = decode(TEXT[1:])
    assert len(read.encode()) > len(read)
    assert found["bits_per_byte"] == pytest.approx(4 * len(read) / len(read.encode()))


@pytest.mark.parametrize("rows", [1, 3])
def test_ngram_is_fitted_on_the_training_tokens_and_measured_in_bytes(rows):
    held_out = encode("The lazy dög — jumps över the quick fox.")

    def batches(split):
        return streams({"train": TEXT, "test": held_out}[split], rows, 5)

    context = dataclasses.replace(tokens_context(Weighted(), rows), batches=batches)
    cfg = evaluators.parse({"type": "ngram", "order": 4})
    assert cfg.when == "end"
    found = evaluators.build(cfg, context)(STATE).scalars
    p = NGram.fit(TEXT[1:], 4, 10_000).probabilities(held_out[1:])
    expected = -np.log2(p).sum() / len(decode(held_out[1:]).encode())
    assert found == {"ngram_4_bits_per_byte": pytest.approx(expected, rel=1e-12)}


def test_ngram_is_refused_where_there_is_no_text_or_the_grams_are_too_many():
    with pytest.raises(ConfigError, match="ngram: expected text"):
        build({"type": "ngram"}, Weighted(), {}, kind="image")
    with pytest.raises(ConfigError, match=r"ngram: order: expected vocabulary \*\* order < 2 \*\* 63"):
        evaluators.build(evaluators.parse({"type": "ngram", "order": 5}), tokens_context(Weighted()))
