"""Sets that TFDS prepares, and how sets are listed, shown and refused."""

import gzip
import importlib
from pathlib import Path

import numpy as np
import pytest
from loading import batch, load

from gen_jax import data
from gen_jax.data import documents, sources, tools
from gen_jax.data.sources import pydoc
from gen_jax.errors import ConfigError, DataError


def idx(path, header):
    return np.frombuffer(gzip.decompress(path.read_bytes())[header:], np.uint8)


@pytest.mark.slow
def test_mnist_is_the_original(shared_data):
    dataset = load(source="tfds", name="mnist", data_dir=str(shared_data / "tfds"), validation=0)
    assert dataset.sizes == {"train": 60_000, "test": 10_000}
    for split, name in (("train", "train"), ("test", "t10k")):
        image = idx(shared_data / "tfds_manual" / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
        label = idx(shared_data / "tfds_manual" / f"{name}-labels-idx1-ubyte.gz", 8)
        both = np.concatenate([image, label[:, None]], 1)
        arrays = dataset.arrays[split]
        found = np.concatenate([arrays["image"].reshape(-1, 784), arrays["label"][:, None].astype(np.uint8)], 1)
        # TFDS shuffles when it prepares: the same rows in another order
        assert sorted(row.tobytes() for row in found) == sorted(row.tobytes() for row in both)


@pytest.mark.slow
def test_mnist_streams_what_it_keeps(shared_data):
    section = dict(source="tfds", name="mnist", data_dir=str(shared_data / "tfds"), size=32)
    section_small = section | dict(resident_mb=1)
    streamed = load(**section_small).train_feed(16)
    original = load(**(section_small | dict(size=0))).train_feed(16)
    resident = load(source="tfds", name="mnist", data_dir=section["data_dir"]).train_feed(16)
    assert batch(streamed, 5)["image"].shape == (16, 32, 32, 1)
    left, right = batch(original, 5), batch(resident, 5)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_tiny_shakespeare_is_the_original(shared_data, tokenizer):
    section = dict(source="tfds", name="tiny_shakespeare", data_dir=str(shared_data / "tfds"), order="streams")
    dataset = load(**section, tokenizer=tokenizer)
    text = "".join(dataset.tokenizer.decode(tokens) for tokens in dataset.tokens.values())
    assert text == (shared_data / "tfds_manual" / "input.txt").read_text()
    assert dataset.info.vocab_size == (256 if tokenizer == "byte" else 65)


def test_missing_data_says_what_to_run(tmp_path):
    folder = f"{tmp_path}/a b"
    with pytest.raises(DataError, match=f"gen-jax data prepare mnist '--data_dir={folder}'"):
        load(source="tfds", name="mnist", data_dir=folder)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(source="digit"), r"config\.data\.source: .* did you mean digits"),
        (dict(), r"config\.data\.source: expected one of"),
        (dict(source="digits", siz=8), r"config\.data\.siz: unknown key.* did you mean size"),
        (dict(source="digits", size=0), r"config\.data\.size: expected greater than 0, got 0"),
        (dict(source="digits", validation=1.0), "data.validation"),
        (dict(source="digits", validation=float("nan")), "data.validation"),
        (dict(source="digits", order="windows"), r"config\.data\.order: expected 'permuted', got 'windows'"),
        (dict(source="pydoc", context=-1), "data.context"),
        (dict(source="pydoc", order="random"), r"config\.data\.order: expected .*'streams', got 'random'"),
        (dict(source="tfds"), r"config\.data\.name: expected a value"),
        (dict(source="image_folder", path="x", channels=2), "data.channels"),
    ],
)
def test_wrong_values_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        data.parse(section)


def test_sources_are_listed():
    files = [file for file in Path(data.sources.__file__).parent.glob("*.py") if file.stem != "__init__"]
    assert [file.stem for file in files if f'Literal["{file.stem}"]' not in file.read_text()] == []
    assert {file.stem for file in files} == set(data.list_sources())
    assert all(data.list_sources().values())


def test_look_gives_pictures_vectors_or_an_excerpt(tmp_path):
    dataset, (images, classes) = data.look(data.resolve("digits"), n=5)
    np.testing.assert_array_equal(images, dataset.arrays["train"]["image"][:5])
    assert classes == [str(label) for label in dataset.arrays["train"]["label"][:5]]
    assert data.describe(dataset)["sizes"] == dataset.sizes
    points, (vectors, _) = data.look(data.resolve("gaussians"), "test", 1)
    np.testing.assert_array_equal(vectors, points.arrays["test"]["vector"])
    (tmp_path / "t.txt").write_text("Some text. " * 200)
    _, excerpt = data.look(data.resolve(str(tmp_path / "t.txt")), "test")
    assert excerpt and excerpt in "Some text. " * 200
    with pytest.raises(ConfigError, match="found 'tset'"):
        data.look(data.resolve("digits"), "tset")


def test_prose_is_paragraphs_of_words():
    kept = "    Return the number of items that there are, none of them twice\n    over; no more is said."
    code = "Return x + 1 for each of the numbers that are given by the caller, in order."
    text = f"f(x)\n{kept}\n\n{code}\n\n{kept}\n\nToo short.\n"
    plain = "Return the number of items that there are, none of them twice\nover; no more is said."
    assert pydoc.prose(text) == plain
    assert pydoc.prose(f"{kept}\n\n{kept}\n") == f"{plain}\n\n{plain}"
    whole, part = (load(source="pydoc", part=part, order="windows", context=8) for part in ("all", "prose"))
    assert 100_000 < sum(part.sizes.values()) < 0.2 * sum(whole.sizes.values())
    assert not set(part.tokenizer.decode(part.tokens["train"])) & set("()_=0123456789")


def test_packed_documents_come_back():
    texts = ["", "Füße", "\n\n", "end"]
    assert documents.unpack(documents.pack([text.encode() for text in texts])) == texts


@pytest.mark.parametrize("whole", ["abcdefghijklmnopqrst", np.arange(20)])
def test_the_end_of_a_text_is_cut_off(whole):
    source = data.parse(dict(source="pydoc", validation=0.1, test=0.25))
    parts = data.source.cut_end(whole, source, ("validation", "test"))
    assert [len(parts[split]) for split in ("train", "validation", "test")] == [13, 2, 5]
    assert list(parts["test"]) == list(whole[-5:]) and list(parts["validation"]) == list(whole[13:15])
    assert set(data.source.cut_end(whole, source, ("test",))) == {"train", "test"}
    greedy = data.parse(dict(source="pydoc", validation=0.6, test=0.6))
    with pytest.raises(DataError, match="a text of 20 is too short to cut off test, validation"):
        data.source.cut_end(whole, greedy, ("validation", "test"))


@pytest.mark.parametrize("name", sources.known())
def test_a_source_that_needs_no_files_is_known_by_its_name(name):
    fields = importlib.import_module(f"gen_jax.data.sources.{name}").Config.model_fields.values()
    assert (name in tools.EMBEDDED) != any(field.is_required() for field in fields)


def test_prepare_says_what_is_missing(monkeypatch):
    import importlib.util

    assert "nothing to prepare" in data.prepare("digits")
    with pytest.raises(ConfigError, match="did you mean mnist"):
        data.prepare("mnst")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorflow" else found(name, *a))
    with pytest.raises(DataError, match=r"pip install 'gen-jax\[prepare\]'"):
        data.prepare("mnist")
