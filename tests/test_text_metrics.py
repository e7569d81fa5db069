"""Text metrics against values counted by hand."""

import math

import pytest

from gen_jax.metrics import text
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


def test_words():
    assert text.words("It's 你好,\tabc_1 é😀\n") == ["It", "'", "s", "你", "好", ",", "abc_1", "é", "😀"]
    assert text.words(" \n") == []


def test_distinct_by_hand():
    # ab ba ab | ab bc: 3 different pairs of 5
    assert text.distinct(["abab", "abc"], 2) == pytest.approx(3 / 5)
    assert text.distinct([["a", "b"], ["c"]], 1) == 1
    assert text.distinct(["a", ""], 2) == 0


def test_repetition_by_hand():
    # ab ba ab ba: 2 of 4 come again; ab bc: none of 2; what another text has does not count
    assert text.repetition(["ababa", "abc"], 2) == pytest.approx(2 / 6)
    assert text.repetition(["abc", "abc"], 2) == 0
    assert text.repetition(["aaaaaaaaaaa"], 1) == pytest.approx(10 / 11)
    assert text.repetition(["a"], 2) == text.repetition([], 2) == 0


def test_self_bleu_by_hand():
    assert text.self_bleu(["the same words again", "the same words again"]) == pytest.approx(100)
    # the first two have 4 of 5, 3 of 4, 2 of 3, 1 of 2 grams in common; the third has none with any, which is 0
    pair = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert text.self_bleu(["a b c d e", "a b c d f", "u v w x y"]) == pytest.approx(2 * pair / 3)
    with pytest.raises(ValueError, match="at least 2"):
        text.self_bleu(["a"])
