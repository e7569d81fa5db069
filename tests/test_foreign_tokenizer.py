"""Tokenisers that others made: what they would do to a text is turned off or refused; harmful files are refused."""

import json
import time

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from gen_jax import cli, data
from gen_jax.data import streaming
from gen_jax.errors import ConfigError, DataError
from gen_jax.text import BPETokenizer, WithEnd, from_json, why_not_exact

TEXT = "".join(f"the cat number {i} sat on the mat.\n" for i in range(40))
END = "<|endoftext|>"
PLAIN = BPETokenizer.train([TEXT], 290)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "cache"))


def library(special=()):
    """A tokeniser like GPT-2's, in the library's own class."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    bpe.train_from_iterator([TEXT], trainer)
    return bpe


def truncates(bpe):
    bpe.enable_truncation(max_length=8)


def pads(bpe):
    bpe.enable_padding(pad_id=0, length=500)


def adds_tokens(bpe):
    bpe.add_special_tokens(["<s>", "</s>"])
    ids = [(name, bpe.token_to_id(name)) for name in ("<s>", "</s>")]
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)


def drops_merges(bpe):
    bpe.model.dropout = 0.5


@pytest.mark.parametrize("change", [truncates, pads, adds_tokens, drops_merges])
def test_what_a_file_would_do_beside_encoding_is_turned_off(change):
    bpe, plain = library(), BPETokenizer(library().to_str())
    change(bpe)
    changed = from_json(bpe.to_str())
    expected = plain.encode(TEXT)
    for ids in (changed.encode(TEXT), *changed.encode_all([TEXT, "the"])[:1]):
        np.testing.assert_array_equal(ids, expected)
    assert why_not_exact(changed) == ""


def lower(bpe):
    bpe.normalizer = normalizers.Sequence([normalizers.Sequence([]), normalizers.Lowercase()])


def spaces(bpe):
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def words(bpe):
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), bpe.pre_tokenizer])


def metaspace(bpe):
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()


def strips(bpe):
    bpe.add_tokens([tokenizers.AddedToken("the", lstrip=True)])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lower, "normalizer Lowercase"),
        (spaces, "' The"),
        (words, "becomes"),
        (metaspace, "becomes"),
        (strips, "becomes"),
    ],
)
def test_what_changes_texts_is_refused_and_why(tmp_path, change, why):
    bpe = library()
    change(bpe)
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "t.json").write_text(bpe.to_str())
    section = dict(source="text_file", path=str(tmp_path / "a.txt"), tokenizer_file=str(tmp_path / "t.json"))
    with pytest.raises(ConfigError, match=r"config\.data\.tokenizer_file: .*any text exactly; .*" + why) as error:
        data.load(data.parse(section), 0)
    assert "\n" not in str(error.value)


def test_a_model_without_all_bytes_is_refused():
    alphabet = {c: i for i, c in enumerate([*sorted(set(TEXT)), "[UNK]"])}
    model = tokenizers.Tokenizer(models.WordLevel(alphabet, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    model.decoder = decoders.Fuse()
    saved = from_json(model.to_str())
    assert saved.decode(saved.encode(TEXT)) == TEXT
    assert "becomes" in why_not_exact(saved)
    with pytest.raises(ValueError, match="does not give back a text exactly: 'a Z' becomes"):
        saved.encode("a Z")


def test_bytes_are_counted_where_a_character_is_cut():
    saved = from_json(library().to_str())
    text = "é你😀" + TEXT
    ids = saved.encode(text)
    for cut in (slice(1, None), slice(2, -1), slice(3, 7)):
        assert saved.num_bytes(ids[cut]) == len(ids[cut]) + sum(
            len(saved._bpe.id_to_token(int(i))) - 1 for i in ids[cut]
        )
    assert saved.num_bytes(ids) == len(text.encode()) and saved.num_bytes([9999]) == 0
    assert saved.decode(ids[1:]) == saved._bpe.decode(ids[1:].tolist())


@pytest.mark.parametrize("tokenizer", [PLAIN, from_json(library([END]).to_str())])
def test_the_name_of_a_special_token_is_text(tokenizer):
    text = f"a{END}b {END}"
    ids = tokenizer.encode(text)
    assert WithEnd(tokenizer).end not in ids and tokenizer.decode(ids) == text
    assert WithEnd(tokenizer).decode(ids) == text


def test_an_end_of_its_own_is_used(tmp_path):
    own = from_json(library([END]).to_str())
    assert (WithEnd(own).end, WithEnd(own).vocab_size) == (0, own.vocab_size) and own.own_end == 0
    assert (WithEnd(PLAIN).end, WithEnd(PLAIN).vocab_size) == (PLAIN.vocab_size, PLAIN.vocab_size + 1)
    common = library()
    common.add_tokens([END])  # a text may have it: it is no end
    assert from_json(common.to_str()).own_end is None
    texts = [f"{i} {END} {TEXT}" for i in range(4)]
    (tmp_path / "texts").mkdir()
    for i, one in enumerate(texts):
        (tmp_path / "texts" / f"{i}.txt").write_bytes(b"\xef\xbb\xbf" + one.encode())
    (tmp_path / "t.json").write_text(own.to_json())
    section = dict(source="text_file", path=str(tmp_path / "texts"), tokenizer_file=str(tmp_path / "t.json"))
    cfg = data.parse(section | dict(documents="packed", context=8))
    dataset = data.load(cfg, 0)
    assert (dataset.info.end, dataset.info.vocab_size) == (0, own.vocab_size)
    tokens = np.concatenate(list(dataset.tokens.values()))
    found = np.split(tokens, np.flatnonzero(tokens == 0))[1:]
    assert sorted(map(dataset.tokenizer.decode, found)) == texts
    streaming.tokenise(cfg, tmp_path / "out", lambda *_: None)
    stored = data.load(data.parse(dict(source="token_file", path=str(tmp_path / "out"), context=8)), 0)
    assert stored.info == dataset.info
    for split, ids in dataset.tokens.items():
        np.testing.assert_array_equal(stored.tokens[split], ids)
    facts = json.loads((tmp_path / "out" / "tokens.json").read_text())
    (tmp_path / "out" / "tokens.json").write_text(json.dumps(facts | {"vocab_size": 291}))
    with pytest.raises(DataError, match="tokenise it again"):
        data.load(data.parse(dict(source="token_file", path=str(tmp_path / "out"), context=8)), 0)


def with_(**parts):
    return json.dumps(json.loads(PLAIN.json) | parts)


def nested(depth):
    inner = '{"type":"Sequence","pretokenizers":[' * depth + "]}" * depth
    return with_(pre_tokenizer="@").replace('"@"', inner)


HARMFUL = {
    "deep lists": "[" * 10**6,
    "deep": nested(100_000),
    "deeper than the library": nested(200),
    "many lists": '{"model":[' + "[]," * 2**22 + "[]]}",
    "large": " " * (2**26 + 1),
    "no tokens": with_(model={"type": "BPE", "vocab": {}, "merges": []}),
    "far ids": with_(model={"type": "BPE", "vocab": {"a": 0, "b": 2**32 - 1}, "merges": []}),
    "no unknown": with_(model={"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 5}),
    "surrogates": '{"kind": "char", "alphabet": "a\\ud800"}',
    "a number": "3",
    "a bad model": with_(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "z"]]}),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_files_that_do_harm_are_refused_at_once(tmp_path, name):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "t.json").write_text(HARMFUL[name])
    section = dict(source="text_file", path=str(tmp_path / "a.txt"), tokenizer_file=str(tmp_path / "t.json"))
    start = time.thread_time()
    with pytest.raises((DataError, ConfigError), match=r"config\.data\.tokenizer_file: ") as error:
        data.load(data.parse(section), 0)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600 and time.thread_time() - start < 5


def test_a_prompt_that_is_no_text_is_one_line():
    for tokenizer in (PLAIN, from_json('{"kind": "byte"}'), from_json('{"kind": "char", "alphabet": "a"}')):
        with pytest.raises(ValueError, match=r"surrogate|udc"):
            tokenizer.encode("a\udce9")


def test_the_command_takes_a_file_with_a_mark(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "t.json").write_text("\ufeff" + library([END]).to_str())
    flags = ["data", "tokenize", f"--path={tmp_path / 'a.txt'}", f"--tokenizer={tmp_path / 't.json'}"]
    cli.main([*flags, f"--out={tmp_path / 'out'}"])
    capsys.readouterr()
    (tmp_path / "t.json").write_text(HARMFUL["deep"])
    with pytest.raises(SystemExit, match="5"):
        cli.main([*flags, f"--out={tmp_path / 'other'}"])
    assert capsys.readouterr().err.count("\n") == 1
