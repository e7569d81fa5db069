"""Tokenisers give back exactly the text that they took."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax.text import BPETokenizer, ByteTokenizer, CharTokenizer, WithEnd, from_json


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


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer.of("Hi"), BPETokenizer.train([], 256)])
def test_ids_beyond_the_vocabulary_are_no_text(tokenizer):
    ids = [tokenizer.vocab_size, *tokenizer.encode("Hi"), tokenizer.vocab_size + 72]
    assert tokenizer.decode(np.array(ids)) == "Hi"


@pytest.mark.parametrize("alphabet", ["", "ac", "ab"])
def test_an_unknown_character_is_named(alphabet):
    with pytest.raises(ValueError, match=r"'[abc]'"):
        CharTokenizer(alphabet).encode("abc")


BPE = BPETokenizer.train(["the cat and the hat"], 260)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer.of('ab\n\u4f60\U0001f600"\\'), BPE])
def test_a_saved_tokenizer_is_the_same(tokenizer):
    assert from_json(tokenizer.to_json()) == tokenizer


@pytest.mark.parametrize(
    "saved", ["", "[]", "{}", '{"kind": "word"}', '{"kind": "char", "alphabet": "ba"}', '{"model": 3}']
)
def test_what_is_no_saved_tokenizer_is_refused(saved):
    with pytest.raises(ValueError):
        from_json(saved)


@pytest.mark.parametrize("plain", [ByteTokenizer(), CharTokenizer.of("the cat"), BPE])
def test_the_end_is_one_token_more_and_no_text(plain):
    tokenizer = WithEnd(plain)
    assert tokenizer.vocab_size == plain.vocab_size + 1 == tokenizer.end + 1
    ids = tokenizer.encode("the cat")
    assert tokenizer.end not in ids
    assert tokenizer.decode(np.concatenate([[tokenizer.end], ids, [tokenizer.end], ids])) == "the catthe cat"
    assert from_json(tokenizer.to_json()) == plain
