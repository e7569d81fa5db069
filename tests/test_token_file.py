"""Token files against the resident source of the same text: the same ids, splits and batches."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax import cli, data
from gen_jax.data import streaming, tokenising
from gen_jax.data.datasets import TokenSet
from gen_jax.errors import ConfigError, DataError

TOKENIZERS = [{"tokenizer": "byte"}, {"tokenizer": "char"}, {"tokenizer": "bpe", "vocab_size": 290}]


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "cache"))
    for module in (tokenising, streaming):
        monkeypatch.setattr(module, "PIECE", 100)  # so that documents have several


@pytest.fixture
def folder(tmp_path):
    """Writes n documents and one empty file."""

    def write(n):
        path, rng = tmp_path / "text", np.random.default_rng(0)
        path.mkdir()
        (path / "empty.txt").write_text("")
        for i in range(n):
            words = rng.choice(["the", "Füße", "你好", "cat\r\n", "mat  "], 1600 // n)
            (path / f"{i:02}.txt").write_bytes(f"<{i:02}> {' '.join(words)}".encode())
        return path

    return write


def both(path, out, **section):
    """The resident set and the memory-mapped one."""
    cfg = data.parse(dict(source="text_file", path=str(path), context=9) | section)
    reports = []
    streaming.tokenise(cfg, out, lambda done, total, note: reports.append((done, total)))
    dones, totals = zip(*reports, strict=True)
    assert list(dones) == sorted(dones) and {dones[-1]} == set(totals) and dones[-2] > 0.75 * dones[-1]
    stored = dict(source="token_file", path=str(out), context=9, order=section.get("order", "windows"))
    return data.load(cfg, 5), data.load(data.parse(stored), 5)


@pytest.mark.parametrize("n", [1, 2, 12])
@pytest.mark.parametrize("documents", ["joined", "packed"])
@pytest.mark.parametrize("section", TOKENIZERS)
def test_the_ids_are_those_of_the_resident_set(folder, tmp_path, section, documents, n):
    resident, stored = both(folder(n), tmp_path / "out", documents=documents, **section)
    assert stored.info == resident.info and stored.sizes == resident.sizes
    assert stored.tokenizer == resident.tokenizer
    for split, tokens in resident.tokens.items():
        assert isinstance(stored.tokens[split], np.memmap)
        assert stored.tokens[split].dtype == tokens.dtype
        np.testing.assert_array_equal(stored.tokens[split], tokens)


def assert_same_batch(feed, other, step):
    made = [one.assemble(one.resident, one.rows(step)) for one in (feed, other)]
    assert made[0].keys() == made[1].keys()
    jax.tree.map(np.testing.assert_array_equal, *made)
    assert {k: np.asarray(v).dtype for k, v in made[0].items()} == {k: np.asarray(v).dtype for k, v in made[1].items()}


@pytest.mark.parametrize("order", ["windows", "permuted", "streams"])
def test_the_batches_are_those_of_the_resident_set(folder, tmp_path, order):
    resident, stored = both(folder(12), tmp_path / "out", order=order)
    for step in (0, 3, 1000):
        assert_same_batch(resident.train_feed(4), stored.train_feed(4), step)
    one, other = resident.eval_feed("test", 4), stored.eval_feed("test", 4)
    assert one.num_batches == other.num_batches and other.resident == {}
    for step in range(one.num_batches):
        assert_same_batch(one, other, step)
    with pytest.raises(ConfigError, match="not several"):
        stored.eval_feed("validation+test", 4)


@pytest.mark.parametrize("order", ["windows", "permuted", "streams"])
def test_offsets_beyond_int32(tmp_path, order):
    context, length = 2**12, 2**33
    tokens = np.memmap(tmp_path / "sparse", np.uint8, "w+", shape=(length,))  # takes no room on the disk
    info = data.Info("tokens", (context + 1,), vocab_size=256)
    dataset = TokenSet(info, {"train": tokens, "test": tokens}, 0, order, resident=False)
    for feed in (dataset.train_feed(64), dataset.eval_feed("test", 64)):
        offset = feed.feed.rows(3)["offset"]
        assert offset.dtype == np.int64 and 2**32 < offset.max() < length and offset.min() >= 0
        row = int(offset.argmax())
        tokens[offset[row] :][:4] = 5, 6, 7, 8
        rows = feed.rows(3, slice(row, row + 1))
        assert rows["tokens"][0, :5].tolist() == [5, 6, 7, 8, 0]
        assert rows["index"].dtype == np.int32 and rows["index"][0] >= 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=300), max_size=5), st.integers(0, 400), st.integers(0, 400))
def test_between_cuts_characters(texts, start, size):
    stop = start + size
    found = list(streaming.between(texts, start, stop))
    assert "".join(found) == "".join(texts)[start:stop]
    assert all(len(piece) == streaming.PIECE for piece in found[:-1])
    assert "".join(streaming.between(texts, 0)) == "".join(texts)


def test_the_command(folder, tmp_path, capsys):
    path, out = folder(12), tmp_path / "out"
    flags = ["data", "tokenize", f"--path={path}", f"--out={out}"]
    cli.main([*flags, "--tokenizer=bpe", "--vocab_size=280", "--documents=packed", "--test=0.2"])
    assert "train:" in capsys.readouterr().out
    cli.main(["data", "show", str(out)])
    assert "vocab_size: 281" in capsys.readouterr().out
    before = (out / "train.npy").read_bytes()
    saved = tmp_path / "saved.json"
    saved.write_bytes((out / "tokenizer.json").read_bytes())
    for more, message in (
        ([], "--overwrite"),
        (["--tokenizer=bpe", "--overwrite"], "--vocab_size: expected at least 256"),
        (["--tokenizer=word", "--overwrite"], "--tokenizer: expected byte"),
        (["--documents=both", "--overwrite"], "--documents: expected 'joined' or 'packed'"),
        (["--test=2", "--overwrite"], "--test: expected"),
        (["--vocab=3"], "unknown argument"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*flags, *more])
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert (out / "train.npy").read_bytes() == before
    cli.main([*flags, f"--tokenizer={saved}", "--documents=packed", "--test=0.2", "--overwrite"])
    assert (out / "train.npy").read_bytes() == before
    with pytest.raises(SystemExit, match="5"):
        cli.main(["data", "tokenize", f"--path={tmp_path / 'none'}", f"--out={tmp_path / 'other'}"])


def test_a_folder_that_is_not_whole_is_refused(folder, tmp_path):
    both(folder(12), tmp_path / "out")
    cfg = data.parse(dict(source="token_file", path=str(tmp_path / "out"), context=9))
    np.save(tmp_path / "out" / "test.npy", np.zeros(3, np.uint8))
    with pytest.raises(DataError, match=r"test\.npy: expected"):
        data.load(cfg, 0)
    (tmp_path / "out" / "tokens.json").unlink()
    with pytest.raises(DataError, match="gen-jax data tokenize"):
        data.load(cfg, 0)
