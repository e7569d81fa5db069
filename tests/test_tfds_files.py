"""Prepared sets of TensorFlow Datasets: what their splits are called, and what is said of damaged files."""

import shutil

import pytest

from gen_jax import data
from gen_jax.data.sources import tfds
from gen_jax.errors import DataError


def test_splits_of_tfds_have_any_of_their_names():
    assert tfds._splits(["Train", "dev", "extra", "TEST"]) == {"train": "Train", "validation": "dev", "test": "TEST"}
    assert tfds._splits(["valid", "train", "validation"]) == {"train": "train", "validation": "validation"}
    with pytest.raises(DataError, match="tfds: expected a split train, found dev, extra"):
        tfds._splits(["dev", "extra"])


def test_a_damaged_set_of_tfds_is_one_line(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tiny_shakespeare/1.0.0"
    shutil.copytree(shared_data / "tfds/tiny_shakespeare/1.0.0", folder, copy_function=shutil.copyfile)
    file = next(folder.glob("*-test.array_record*"))
    whole = file.read_bytes()
    file.write_bytes(whole[:1000] + bytes(8) + whole[1008:])
    section = dict(source="tfds", name="tiny_shakespeare", data_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"1\.0\.0 cannot be read \(RuntimeError: .*\), prepare it again") as caught:
        data.load(data.parse(section), 0)
    assert "\n" not in str(caught.value)
    for content in ("[" * 10**5, "[]", '{"featuresDict": []}', '{"featuresDict": {"features": {"text": {}}}}'):
        (folder / "features.json").write_text(content)
        with pytest.raises(DataError, match=r"1\.0\.0 cannot be read \(.*\), prepare it again"):
            data.load(data.parse(section), 0)
