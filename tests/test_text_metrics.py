"""Text metrics against values counted by hand."""

import math

import pytest

from gen_jax.metrics.bleu import bleu
from gen_jax.metrics.rouge import rouge


def test_bleu_by_hand():
    # of 5, 4, 3, 2 grams 4, 3, 2, 1 are in the reference; both have 5 words
    score, signature = bleu(["The cat sat down ."], ["The cat sat down !"])
    assert score == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    for part in ("nrefs:1", "case:mixed", "tok:13a", "smooth:exp"):
        assert part in signature.split("|")


def test_bleu_is_over_the_corpus_and_punishes_brevity():
    texts = ["a b c d e f", "g h i j k"]
    assert bleu(texts, texts)[0] == pytest.approx(100)
    # all grams of the 4 words are right, the reference has 6
    assert bleu(["a b c d"], ["a b c d e f"])[0] == pytest.approx(100 * math.exp(1 - 6 / 4))
    # grams are added up before they are divided: a mean over sentences would give 50
    assert bleu(["a b c d", "x y"], ["a b c d", "z w"])[0] == pytest.approx(
        100 * (4 / 6 * 3 / 4 * 2 / 2 * 1 / 1) ** 0.25
    )


def test_rouge_by_hand():
    # words: 3 of 4 and 3 of 3; pairs: 1 of 3 and 1 of 2; longest common subsequence: 3 words
    found = rouge(["the dogs barked"], ["The dog has barked!"])
    assert found["rouge_1"] == pytest.approx(2 * 3 / 7)
    assert found["rouge_2"] == pytest.approx(2 * 1 / 5)
    assert found["rouge_l"] == pytest.approx(2 * 3 / 7)
    # another order: as many words in common, a shorter subsequence (2 of 3)
    found = rouge(["b a c"], ["a b c"])
    assert (found["rouge_1"], found["rouge_l"]) == (pytest.approx(1), pytest.approx(2 / 3))


def test_rouge_is_the_mean_over_pairs():
    assert rouge(["one two", "x"], ["one two", "y"])["rouge_1"] == pytest.approx(0.5)


@pytest.mark.parametrize("metric", [bleu, rouge])
@pytest.mark.parametrize("texts", [([], []), (["a"], ["a", "b"])])
def test_pairs_must_be_pairs(metric, texts):
    with pytest.raises(ValueError, match="as many references"):
        metric(*texts)
