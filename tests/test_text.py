"""Tokenisers give back exactly the text that they took."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax.text import ByteTokenizer, CharTokenizer


@settings(deadline=None)
@given(st.text())
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.tolist() == list(text.encode())
    assert tokenizer.decode(ids) == text


@settings(deadline=None)
@given(st.text(st.characters()), st.text(st.characters()))
def test_chars_round_trip(text, other):
    tokenizer = CharTokenizer.of(text, other)
    assert tokenizer.vocab_size == len(set(text + other))
    for one in (text, other, other + text):
        ids = tokenizer.encode(one)
        assert len(ids) == len(one)
        assert tokenizer.decode(ids) == one


def test_bytes_that_are_not_utf8_are_marked():
    assert ByteTokenizer().decode(np.array([72, 105, 255])) == "Hi\ufffd"


@pytest.mark.parametrize("alphabet", ["", "ac", "ab"])
def test_an_unknown_character_is_named(alphabet):
    with pytest.raises(ValueError, match=r"'[abc]'"):
        CharTokenizer(alphabet).encode("abc")
