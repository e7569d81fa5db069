"""A run continues with the data that it began with."""

import json

import numpy as np
import pytest
from PIL import Image

from gen_jax import data
from gen_jax.data.fingerprint import BLOCK, WHOLE, _hash, differences, fingerprint
from gen_jax.errors import DataError
from gen_jax.runs.run_dir import RunDir
from gen_jax.training import same_data


def load(**section):
    return data.load(data.parse(section), 0)


def pictures(root, *classes):
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.config_file.write_text("{}")
    return run


def test_the_difference_is_said_and_can_be_accepted(tmp_path, run, capsys):
    section = dict(source="image_folder", path=str(tmp_path / "photos"), size=8)
    pictures(tmp_path / "photos", "bird", "cat")
    assert same_data.check(run, load(**section), False) == []
    assert "has no data.json: its data are not compared" in capsys.readouterr().err
    same_data.keep(run, load(**section), [])
    assert same_data.check(run, load(**section, resident_mb=1), False) == []
    (tmp_path / "photos" / "cat").rename(tmp_path / "gone")
    pictures(tmp_path / "photos", "ant")
    changes = ["classes: bird, cat then, ant, bird now"]
    with pytest.raises(DataError, match=f"{changes[0]}; pass --accept_data"):
        same_data.check(run, load(**section), False)
    assert same_data.check(run, load(**section), True) == changes
    same_data.keep(run, load(**section), changes)
    assert same_data.check(run, load(**section), False) == [] and run.accepted_data() == [changes]
    run.record_start(0)
    assert json.loads(run.manifest_file.read_text())["starts"][0]["accepted_data"] == [changes]
    for wrong in ("{", "[]", "[" * 10**5, '{"fingerprint": {}}', '{"fingerprint": [1], "accepted": []}'):
        run.data_file.write_text(wrong)
        with pytest.raises(DataError, match="damaged"):
            same_data.check(run, load(**section), False)


def test_every_kind_of_set_has_a_fingerprint_of_its_contents(tmp_path):
    (tmp_path / "t.txt").write_text("some words " * 100)
    sections = [
        dict(source="digits"),
        dict(source="gaussians"),
        dict(source="text_file", path=str(tmp_path / "t.txt"), context=4),
        dict(source="reversal", pairs=50, context=24),
        dict(source="tones", length=64, examples=20),
        dict(source="colours"),
    ]
    for section in sections:
        found = fingerprint(load(**section))
        assert differences(json.loads(json.dumps(found)), fingerprint(load(**section))) == []
    (tmp_path / "t.txt").write_text("some wards " * 100)
    text = dict(source="text_file", path=str(tmp_path / "t.txt"), context=4)
    old = fingerprint(load(**text))
    (tmp_path / "t.txt").write_text("some words " * 100)
    parts = ["train", "validation", "test"]
    assert differences(old, fingerprint(load(**text))) == [f"contents of {part} differ" for part in parts]


def test_large_arrays_are_sampled_at_both_ends():
    array = np.zeros(4 * WHOLE, np.uint8)
    whole = _hash({"a": array})
    for place in (0, 4 * WHOLE - 1):
        array[place] = 1
        assert _hash({"a": array}) != whole
        array[place] = 0
    assert _hash({"a": array.astype(np.int8)}) != whole and _hash({"b": array}) != whole and BLOCK < WHOLE
