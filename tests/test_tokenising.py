"""Tokenised sources: what is trained on, what is kept, and that the ids are those of the text."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax import data
from gen_jax.data import tokenising
from gen_jax.errors import ConfigError, DataError
from gen_jax.text import BPETokenizer, ByteTokenizer

WORDS = ["Füße", "你好", "the", "and\t\u200b", "cat", "😀", "\r\n", "of", "in", "1234", "..."]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """20 documents."""
    rng = np.random.default_rng(0)
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_bytes(f"<{i:02}> {' '.join(rng.choice(WORDS, 100))}".encode())
    return tmp_path


def load(folder, **section):
    return data.load(data.parse(dict(source="text_file", path=str(folder), context=8) | section), 0)


def texts(dataset):
    return {split: dataset.tokenizer.decode(tokens) for split, tokens in dataset.tokens.items()}


def test_bpe_of_a_source_gives_back_its_text_in_fewer_tokens(folder):
    byte, bpe = load(folder), load(folder, tokenizer="bpe", vocab_size=300)
    assert texts(bpe) == texts(byte)
    assert bpe.info.vocab_size == bpe.tokenizer.vocab_size == 300
    assert bpe.sizes["test"] < 0.7 * byte.sizes["test"]
    assert bpe.tokens["train"].dtype == np.uint16


def test_bpe_sees_the_training_split_alone(folder):
    dataset = load(folder, tokenizer="bpe", vocab_size=300)
    train = texts(dataset)["train"]
    assert dataset.tokenizer == BPETokenizer.train([train], 300)
    for file in folder.glob("*.txt"):
        if file.read_text()[:4] not in train:
            file.write_text(file.read_text()[:4] + " zyxzyxzyx" * 100)
    changed = load(folder, tokenizer="bpe", vocab_size=300)
    assert changed.tokenizer == dataset.tokenizer
    assert changed.tokens["test"].tobytes() != dataset.tokens["test"].tobytes()


def test_a_cached_bpe_is_the_trained_one(folder, monkeypatch):
    first = load(folder, tokenizer="bpe", vocab_size=300)
    monkeypatch.setattr(BPETokenizer, "train", None)
    again = load(folder, tokenizer="bpe", vocab_size=300)
    assert again.tokenizer == first.tokenizer
    for split, tokens in first.tokens.items():
        np.testing.assert_array_equal(again.tokens[split], tokens)


@pytest.mark.parametrize(
    "section", [{"tokenizer": "byte"}, {"tokenizer": "char"}, {"tokenizer": "bpe", "vocab_size": 300}]
)
def test_a_saved_tokenizer_replaces_a_new_one(folder, tmp_path, section):
    first = load(folder, **section)
    (tmp_path / "tokenizer.json").write_text(first.tokenizer.to_json())
    for file in sorted(folder.glob("*.txt"))[10:]:
        file.unlink()  # a new tokeniser would be another
    again = load(folder, tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert again.tokenizer == first.tokenizer and again.info.vocab_size == first.info.vocab_size
    assert set("".join(texts(again).values())) <= set("".join(texts(first).values()))


def test_a_character_that_a_saved_tokenizer_does_not_know_is_named(folder, tmp_path):
    saved = tmp_path / "tokenizer.json"
    saved.write_text(
        json.dumps({"kind": "char", "alphabet": "".join(sorted(set("".join(WORDS) + " <>0123456789") - {"F"}))})
    )
    with pytest.raises(DataError, match=r"tokenizer_file: .*'F'"):
        load(folder, tokenizer_file=str(saved))
    for wrong in ("{}", "\0"):
        saved.write_text(wrong)
        with pytest.raises(DataError, match=r"tokenizer\.json: expected a saved tokeniser"):
            load(folder, tokenizer_file=str(saved))
    with pytest.raises(DataError, match="expected a saved tokeniser"):
        load(folder, tokenizer_file=str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    "section", [{"tokenizer": "bpe"}, {"tokenizer": "bpe", "vocab_size": 255}, {"vocab_size": 300}]
)
def test_a_vocabulary_of_the_wrong_size_is_refused(folder, section):
    with pytest.raises(ConfigError, match=r"config\.data\.vocab_size: expected"):
        load(folder, **section)


@pytest.mark.parametrize(
    "section", [{"tokenizer": "byte"}, {"tokenizer": "char"}, {"tokenizer": "bpe", "vocab_size": 300}]
)
def test_packed_documents_begin_with_the_end_token(folder, section):
    dataset = load(folder, documents="packed", **section)
    plain, end = load(folder, **section), dataset.info.end
    assert plain.info.end is None
    assert (
        end == dataset.info.vocab_size - 1 == (257 if section["tokenizer"] == "byte" else dataset.info.vocab_size) - 1
    )
    found = []
    for split, tokens in dataset.tokens.items():
        assert tokens[0] == end
        documents = [dataset.tokenizer.decode(one) for one in np.split(tokens, np.flatnonzero(tokens == end))[1:]]
        assert "\n\n".join(documents) == texts(plain)[split]
        assert dataset.tokenizer.decode(tokens) == "".join(documents)
        found += documents
    assert sorted(found) == [file.read_bytes().decode() for file in sorted(folder.glob("*.txt"))]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(), max_size=5))
def test_ids_do_not_depend_on_batches(documents):
    whole = [ByteTokenizer().encode(one) for one in documents]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenising, "PIECE", 2)
        patch.setattr(tokenising, "BATCH", 3)
        found = list(tokenising.encoded(ByteTokenizer(), map(tokenising.pieces, documents), 256))
    expected = np.concatenate([np.append([256], one) for one in whole]) if documents else []
    assert np.concatenate([np.zeros(0, int), *found]).tolist() == list(expected)
