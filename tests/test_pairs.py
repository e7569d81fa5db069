"""Pairs of texts: each once an epoch, whole, and apart from the others of its row."""

import gzip

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax import data
from gen_jax.data import packing, pair_sets
from gen_jax.data.sources import reversal
from gen_jax.data.tools import look
from gen_jax.errors import ConfigError, DataError

SMALL = {"source": "reversal", "pairs": 120, "context": 24}


def toy(seed=0, **fields):
    return data.load(data.parse(SMALL | fields), seed)


def texts_of(dataset, rows):
    """(source, target) of every pair in rows of a batch, in order."""
    found = []
    for source, of_source, tokens, segment in zip(
        *(rows[name] for name in ("source", "source_segment", "tokens", "segment")), strict=True
    ):
        for number in range(1, segment.max() + 1):
            read, written = source[of_source == number], tokens[1:][segment == number]
            assert read[-1] == written[-1] == tokens[:-1][segment == number][0] == dataset.info.end
            assert (np.concatenate([read[:-1], written[:-1]]) != dataset.info.end).all()
            found.append((dataset.tokenizer.decode(read), dataset.tokenizer.decode(written)))
    return found


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=60), st.integers(9, 20))
def test_packed_pairs_fit_and_do_not_overlap(sizes, capacity):
    layout = packing.pack(np.array(sizes), capacity)
    taken = np.zeros((2, layout.rows.max() + 1, capacity), int)
    for row, places, size in zip(layout.rows, layout.places, sizes, strict=True):
        for side in (0, 1):
            assert places[side] + size[side] <= capacity
            taken[side, row, places[side] : places[side] + size[side]] += 1
    assert taken.max() == 1 and taken.sum() == np.sum(sizes)
    for row in range(len(taken[0])):
        assert sorted(layout.segments[layout.rows == row]) == list(range(1, (layout.rows == row).sum() + 1))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_every_pair_is_read_once_an_epoch_and_every_answer_is_right(batch_size):
    dataset = toy()
    feed = dataset.train_feed(batch_size)
    rows = [feed.rows(step) for step in range(200 // batch_size)]  # more than three epochs
    pairs = [pair for batch in rows for pair in texts_of(dataset, batch)]
    n = dataset.sizes["train"]
    orders = [pairs[epoch * n : (epoch + 1) * n] for epoch in range(3)]
    assert all(reversal.translate(source) == target for source, target in pairs)
    assert len(set(pairs)) == n == 96
    # packed rows lie a little out of order, so only whole epochs hold each pair once
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(set(pairs)) and orders[0] != orders[1]
    for batch in rows:
        np.testing.assert_array_equal(batch["mask"], batch["segment"] > 0)
        assert {name: array.dtype.name for name, array in batch.items()} == {
            "source": "int32",
            "source_segment": "int32",
            "tokens": "int32",
            "segment": "int32",
            "mask": "float32",
            "index": "int32",
            "valid": "bool",
        }
    assert np.mean([batch["mask"].mean() for batch in rows]) > 0.8  # little is padding


def test_rows_depend_on_seed_and_step_alone():
    one, other, shuffled = toy().train_feed(8), toy().train_feed(8), toy(seed=1).train_feed(8)
    late = other.rows(20)  # without those before it
    for step in (0, 7, 20):
        here = one.rows(step)
        for name, array in (late if step == 20 else other.rows(step)).items():
            np.testing.assert_array_equal(here[name], array)
        for name, array in one.rows(step, slice(2, 5)).items():
            np.testing.assert_array_equal(here[name][2:5], array)
    assert not np.array_equal(one.rows(0)["tokens"], shuffled.rows(0)["tokens"])


def test_an_evaluation_has_one_pair_a_row_in_order():
    dataset = toy()
    feed = dataset.eval_feed("test", 5)
    batches = [jax.tree.map(np.asarray, feed.assemble(feed.resident, feed.rows(i))) for i in range(feed.num_batches)]
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    kept = {name: array[joined["valid"]] for name, array in joined.items()}
    assert kept["index"].tolist() == list(range(dataset.sizes["test"]))
    assert set(np.unique(kept["segment"])) == {0, 1}
    pairs = texts_of(dataset, kept)
    assert len(pairs) == dataset.sizes["test"] == 12
    assert all(reversal.translate(source) == target for source, target in pairs)
    both = dataset.eval_feed("validation+test", 5)
    assert both.n == dataset.sizes["validation"] + 12


def test_splits_share_no_source():
    dataset = toy()
    splits = [
        {source for source, _ in texts_of(dataset, dataset.eval_feed(split, 4).resident)} for split in dataset.sizes
    ]
    assert sum(map(len, splits)) == len(set.union(*splits)) == sum(dataset.sizes.values())


def test_long_training_pairs_are_left_out_aloud_and_evaluated_ones_refused(capsys):
    dataset = toy(context=7)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "training pairs exceed 7 tokens: left out" in said
    pairs = texts_of(dataset, dataset.train_feed(4).rows(0))
    assert max(len(dataset.tokenizer.encode(target)) for _, target in pairs) <= 6
    with pytest.raises(ConfigError, match=r"config\.data\.context: expected at least \d+, the longest pair of test"):
        dataset.eval_feed("test", 4)
    with pytest.raises(ConfigError, match=r"config\.data\.context: expected at least"):
        toy(context=2).train_feed(4)


def write(folder, name, lines):
    (folder / name).write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))


def test_files_are_read_line_by_line(tmp_path):
    english, german = ["A dog.", "Two  cats \u2028 run.", "A man."], ["Ein Hund.", "Zwei  Katzen laufen.", "Ein Mann."]
    for split in ("train", "val", "flickr"):
        write(tmp_path, f"{split}.en.gz", english)
        write(tmp_path, f"{split}.de.gz", german)
    section = {"source": "pairs", "path": str(tmp_path), "test_name": "flickr", "vocab_size": 270}
    dataset, text = look(section, "test")
    assert dataset.sizes == {"train": 3, "validation": 3, "test": 3}
    assert text == "\n\n".join(map("\n".join, zip(english, german, strict=True)))
    assert dataset.info.vocab_size == dataset.tokenizer.vocab_size <= 271
    (tmp_path / "tokenizer.json").write_text(dataset.tokenizer.to_json())
    again = data.load(data.parse(section | {"tokenizer_file": str(tmp_path / "tokenizer.json"), "vocab_size": 300}), 0)
    assert again.tokenizer == dataset.tokenizer
    write(tmp_path, "val.de.gz", german[:2])
    with pytest.raises(DataError, match=r"3 lines and val\.de\.gz 2"):
        data.load(data.parse(section), 0)


def texts_in(folder, split, **fields):
    section = {"source": "pairs", "path": str(folder), "validation": 0, "test": 0, "vocab_size": 260}
    dataset = data.load(data.parse(section | fields), 0)
    return texts_of(dataset, dataset.eval_feed(split, 99).resident) if split in dataset.sizes else None


@pytest.mark.parametrize("alias", ["val", "valid", "validation", "dev", "VALID", "Dev"])
def test_splits_of_pairs_have_any_of_their_names(tmp_path, capsys, alias):
    for name, word in (("Train", "a"), (alias, "b"), ("TESTING", "c")):
        write(tmp_path, f"{name}.en.gz", [word])
        write(tmp_path, f"{name}.DE.GZ", [word * 2])
    write(tmp_path, "other.en.gz", ["d"])
    (tmp_path / ".train.en.gz").write_bytes(b"")
    found = [texts_in(tmp_path, split) for split in ("train", "validation", "test")]
    assert found == [[("a", "aa")], [("b", "bb")], [("c", "cc")]]
    assert capsys.readouterr().err.splitlines()[0] == (
        f"data: {tmp_path}: pairs (train in Train.en.gz and Train.DE.GZ, "
        f"validation in {alias}.en.gz and {alias}.DE.GZ, "
        "test in TESTING.en.gz and TESTING.DE.GZ); skipped: 1 of other names (other.en.gz)"
    )


def test_one_of_several_splits_of_pairs_is_picked_by_name(tmp_path, capsys):
    for name in ("train", "dev", "Valid"):
        write(tmp_path, f"{name}.en.gz", [name])
        write(tmp_path, f"{name}.de.gz", [name])
    with pytest.raises(DataError) as caught:
        texts_in(tmp_path, "train")
    assert str(caught.value) == (
        f"config.data.path: {tmp_path} has Valid.de.gz and Valid.en.gz and dev.de.gz and dev.en.gz, expected one of "
        "each language for validation; config.data.validation_name picks them"
    )
    assert texts_in(tmp_path, "validation", validation_name="dev") == [("dev", "dev")]
    assert "skipped: 2 of other names (Valid.de.gz, Valid.en.gz)" in capsys.readouterr().err
    assert texts_in(tmp_path, "validation", validation_name="") is None
    (tmp_path / "dev.de.gz").unlink()
    with pytest.raises(DataError, match=r"has dev\.en\.gz, expected one of de beside it, dev\.de\.gz"):
        texts_in(tmp_path, "train", validation_name="dev")


def test_pairs_may_lie_in_folders_of_splits(tmp_path):
    for name in ("train", "Dev"):
        (tmp_path / name).mkdir()
        for language in ("en", "de"):
            (tmp_path / name / f"{language}.txt").write_text(name)
    assert texts_in(tmp_path, "validation", pattern="{split}/{language}.txt") == [("Dev", "Dev")]


def test_a_bomb_or_a_cut_of_gzip_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("gen_jax.data.bounds.FLOOR", 10**5)
    write(tmp_path, "train.de.gz", ["a"])
    bomb = gzip.compress(bytes(3 * 10**6))
    (tmp_path / "train.en.gz").write_bytes(bomb)
    with pytest.raises(DataError) as caught:
        texts_in(tmp_path, "train")
    assert str(caught.value) == (
        f"{tmp_path}/train.en.gz: a file of {len(bomb):,} bytes that unpacks to 1,048,576, more than 100 times as "
        "many; set GEN_JAX_UNBOUNDED=1 to read it anyway"
    )
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"some words\n")[:-9])
    with pytest.raises(DataError, match=r"train\.en\.gz: not readable as gzip: Compressed file ended before"):
        texts_in(tmp_path, "train")


def test_other_wrong_files_are_named(tmp_path):
    section = {"source": "pairs", "path": str(tmp_path)}
    with pytest.raises(DataError, match=r"no pairs \(\*\.\*\.gz\) in"):
        data.load(data.parse(section), 0)
    for lines, name in ((["a", ""], "train.en.gz"), (["b", "c"], "train.de.gz")):
        write(tmp_path, name, lines * 20)
    dataset = data.load(data.parse(section), 0)  # cut off the training pairs; those with an empty side left out
    assert dataset.sizes == {"train": 16, "validation": 2, "test": 2}
    (tmp_path / "val.en.gz").write_bytes(b"no gzip")
    write(tmp_path, "val.de.gz", ["b"])
    with pytest.raises(DataError, match=r"val\.en\.gz"):
        data.load(data.parse(section), 0)
    with pytest.raises(ConfigError, match=r"config\.data\.path: expected a path, got ''"):
        data.load(data.parse(section | {"path": ""}), 0)
    with pytest.raises(ConfigError, match=r"config\.data\.pattern"):
        data.load(data.parse(section | {"pattern": "{name}.gz"}), 0)
    with pytest.raises(ConfigError, match=r"config\.data\.vocab_size"):
        data.parse(section | {"vocab_size": 200})


def test_no_arrays_can_be_added():
    with pytest.raises(ConfigError, match="not to pairs"):
        toy().with_arrays({})
    with pytest.raises(DataError, match="no pairs in test"):
        source = pair_sets.PairSource(source="pairs")
        pair_sets.pair_set({"train": (["a"], ["b"]), "test": ([], [])}, source, 0)
