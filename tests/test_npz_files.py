"""Arrays of the user's: splits that are unlike, numbers that do not fit, files that lie about their sizes."""

import io
import json
import zipfile

import numpy as np
import pytest

from gen_jax import data
from gen_jax.errors import ConfigError, DataError

IMAGE = np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8)


def load(path, **fields):
    return data.load(data.parse(dict(source="npz", path=str(path)) | fields), 0)


@pytest.mark.parametrize("name", ["image", "vector", "tokens"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(documents="packed"), "documents: expected 'joined' for {}s, found 'packed'"),
        (dict(documents="lines"), "documents: expected 'joined' for {}s, found 'lines'"),
        (dict(tokenizer="char"), "tokenizer: expected 'byte' for {}s, found 'char'"),
        (dict(tokenizer="bpe", vocab_size=300), "tokenizer: expected 'byte' for {}s, found 'bpe'"),
        (dict(tokenizer_file="a.json"), "tokenizer_file: expected '' for {}s, found 'a.json'"),
        (dict(context=9), "context: expected 128 for {}s, found 9"),
        (dict(order="windows"), "order: expected 'permuted' for {}s, found 'windows'"),
    ],
)
def test_no_field_of_text_is_ignored(tmp_path, name, fields, message):
    arrays = dict(image=IMAGE, vector=np.eye(40), tokens=np.arange(999) % 7)
    np.savez(tmp_path / "a.npz", **{name: arrays[name]})
    if name == "tokens" and {"context", "order"} & fields.keys():
        assert load(tmp_path / "a.npz", **fields).context == fields.get("context", 128)
    else:
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / "a.npz", **fields)
        assert str(caught.value) == "config.data." + message.format(name.removesuffix("s"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(image=IMAGE, label=np.arange(40) % 2, test_image=IMAGE), "expected image, label of test, as of train"),
        (dict(image=IMAGE, test_image=IMAGE, test_label=np.arange(40)), "expected image of test, as of train"),
        (dict(image=IMAGE, test_image=IMAGE[:, :4]), r"one shape and type, .* uint8 \[8, 8\], test uint8 \[4, 8\]"),
        (dict(vector=np.eye(4), test_vector=np.eye(4, dtype=np.float32)), "one shape and type"),
        (
            dict(image=IMAGE, label=np.arange(40) % 2, test_image=IMAGE, test_label=np.arange(40) % 3),
            "label of test: expected those of train, 0 to 1, found 2",
        ),
        (dict(image=IMAGE, val_image=IMAGE, dev_image=IMAGE), "expected one image of validation, found several"),
        (dict(image=np.zeros((4, 3, 8, 8), np.uint8)), "channels last"),
        (dict(vector=np.full((9, 2), 1e300)), r"numbers up to 3\.40282e\+38"),
        (dict(vector=np.full((9, 2), 2**60)), r"numbers up to 1\.67772e\+07"),
        (dict(vector=np.full((9, 2), np.inf)), "finite numbers"),
        (dict(tokens=np.linspace(0, 9, 100)), "tokens of train: expected ids"),
        (dict(tokens=np.full(100, 2**40)), "tokens of train: expected ids"),
        (dict(image=np.array([{}], object)), "of plain arrays: image.npy holds Python objects"),
        ({}, "expected one of image, vector or tokens, found nothing"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_splits_have_any_of_their_names(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", train_image=IMAGE, Val_image=IMAGE[:3], testing_image=IMAGE[:5], note=np.zeros(2))
    assert load(tmp_path / "a.npz").sizes == {"train": 40, "validation": 3, "test": 5}
    assert "skipped: 1 arrays of other names (note)" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble])
def test_floats_of_every_width_are_read(tmp_path, dtype):
    np.savez(tmp_path / "a.npz", vector=np.full((40, 2), 0.5, dtype))
    vector = load(tmp_path / "a.npz").train_feed(8).resident["vector"]
    assert vector.dtype == np.float32 and (np.asarray(vector) == 0.5).all()


def npy(shape, content, descr="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize("shape", [(10**15,), (2**62, 2**62), (3,)])
def test_a_header_that_lies_is_refused_before_anything_is_allocated(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as out:
        out.writestr("tokens.npy", npy(shape, bytes(100)))
    with pytest.raises(DataError, match=r"tokens\.npy: its header says [\d,]+ bytes, the archive 100"):
        load(tmp_path / "a.npz")


def test_a_bomb_is_refused_by_what_it_says_it_holds(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", tokens=np.zeros(10**6, np.uint8))
    assert load(tmp_path / "a.npz", order="windows").sizes["train"] == 800_000
    monkeypatch.setattr("gen_jax.data.bounds.FLOOR", 10**5)
    with pytest.raises(DataError, match=r"unpacks to 1,000,128, more than 100 times as many; set GEN_JAX_UNBOUNDED=1"):
        load(tmp_path / "a.npz")
    monkeypatch.setenv("GEN_JAX_UNBOUNDED", "1")
    load(tmp_path / "a.npz", order="windows")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_or_a_cut_is_seen(tmp_path, save):
    save(tmp_path / "a.npz", image=np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8))
    whole = (tmp_path / "a.npz").read_bytes()
    for place in (200, 300, 1500):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        (tmp_path / "a.npz").write_bytes(flipped)
        with pytest.raises(DataError, match="of plain arrays"):
            load(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(whole[:-100])
    with pytest.raises(DataError, match="of plain arrays"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([0, 255, 256], np.uint16), r"train\.npy: expected ids from 0 to 255, found 0 to 256"),
        (np.array([0, -1, 5], np.int32), r"expected ids from 0 to 255, found -1 to 5"),
        (np.array([0, 1, 5], np.float32), r"expected ids of uint8, uint16 or int32, found float32"),
    ],
)
def test_ids_of_token_files_are_those_of_the_vocabulary(tmp_path, ids, message):
    (tmp_path / "text.txt").write_text("words " * 50)
    from gen_jax.data import streaming

    cfg = data.parse(dict(source="text_file", path=str(tmp_path / "text.txt"), context=2))
    streaming.tokenise(cfg, tmp_path / "out", lambda *_: None)
    np.save(tmp_path / "out" / "train.npy", ids)
    facts = json.loads((tmp_path / "out" / "tokens.json").read_text())
    facts["sizes"]["train"] = 3
    (tmp_path / "out" / "tokens.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=message):
        data.load(data.parse(dict(source="token_file", path=str(tmp_path / "out"), context=2)), 0)
