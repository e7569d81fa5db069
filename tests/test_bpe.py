"""Byte-level BPE gives back exactly the text that it took, and merges the most frequent pair first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax.text import BPETokenizer

TEXTS = ("the cat sat on the mat", "the other cat", "你好，世界 😀", " a\n\nb\t")
BPE = BPETokenizer.train(TEXTS, 280)


@settings(deadline=None)
@given(st.text())
def test_any_text_round_trips(text):
    assert BPE.decode(BPE.encode(text)) == text


@pytest.mark.parametrize("text", [*TEXTS, "", "🇩🇪 e\u0301 \u200d", "\x00\r\n"])
def test_known_texts_round_trip(text):
    assert BPE.decode(BPE.encode(text)) == text


def test_the_most_frequent_pair_is_the_first_merge():
    merged = BPETokenizer.train(["abab abab ab", "ba"], 257)
    assert merged.vocab_size == 257
    assert len(merged.encode("abab")) == 2
    assert merged.decode([256]) == "ab"


def test_trained_again_or_read_from_json_it_is_the_same():
    again = BPETokenizer.train(TEXTS, 280)
    assert again == BPE == BPETokenizer.from_json(BPE.to_json())
    assert BPE.vocab_size <= 280
    for one, text in zip(BPE.encode_all(TEXTS), TEXTS, strict=True):
        assert one.dtype == np.int32
        np.testing.assert_array_equal(one, again.encode(text))


def test_ids_outside_are_no_text_and_broken_bytes_are_marked():
    assert BPE.decode([*BPE.encode("cat"), 280]) == "cat"
    assert BPE.decode(BPE.encode("😀")[:1]) == "\ufffd" or len(BPE.encode("😀")) == 1
    with pytest.raises(ValueError, match="at least 256"):
        BPETokenizer.train(TEXTS, 255)
