"""Which checkpoints are kept, and what surfaces when."""

import json
import os

import pytest
from saved import abstract_of, biggest_file, flip_bit, folder, make_state, opened  # noqa: F401

from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.runs import step_dirs
from gen_jax.runs.restore import load
from gen_jax.runs.step_dirs import available


def test_hashes_stop_above_the_limit_but_sizes_are_still_checked(tmp_path):
    with opened(tmp_path, hash_limit_mb=1e-6) as checkpoints:
        checkpoints.save(1, make_state(1), {})
    flip_bit(biggest_file(tmp_path / "1"))
    assert step_dirs.damage(step_dirs.absolute(tmp_path), 1) is None
    os.truncate(biggest_file(tmp_path / "1"), 5)
    assert "has 5 bytes" in step_dirs.damage(step_dirs.absolute(tmp_path), 1)


def test_the_last_and_the_best_are_kept(tmp_path):
    with opened(tmp_path, keep=2) as checkpoints:
        for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5), (7, 5)):
            checkpoints.save(step, make_state(step), {"best_step": best})
            checkpoints.wait()
            if step == 5:  # 4 may be what a damaged 5 falls back to, and names 2
                assert available(tmp_path) == [2, 4, 5]
    assert available(tmp_path) == [5, 6, 7]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["5", "6", "7"]
    assert load(tmp_path, abstract_of(make_state()), "best")[0] == 5
    with opened(tmp_path, keep=2) as checkpoints:
        checkpoints.save(8, make_state(8), {"best_step": 5})
    assert available(tmp_path) == [5, 7, 8]


def test_saving_a_step_again_replaces_it(folder):
    with opened(folder) as checkpoints:
        checkpoints.save(3, make_state(3), {"evaluated": 3})
    step, _, loop = load(folder, abstract_of(make_state()))
    assert (step, loop) == (3, {"evaluated": 3})


def test_what_is_recorded_after_a_save_is_read_with_it(folder):
    """The arrays are not written again; the best step that the record names is kept."""
    written = biggest_file(folder / "3").stat()
    with opened(folder, keep=1) as checkpoints:
        checkpoints.record(3, {"best_step": 3, "evaluated": 3, "best": 0.1})
    assert available(folder) == [3]
    assert load(folder, abstract_of(make_state()), "best")[2] == {"best_step": 3, "evaluated": 3, "best": 0.1}
    again = biggest_file(folder / "3").stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert step_dirs.damage(step_dirs.absolute(folder), 3) is None


def test_a_changed_manifest_is_damage(folder):
    manifest = folder / "3.sha256.json"
    manifest.write_text(manifest.read_text().replace('"best_step": null', '"best_step": 1'))
    assert "no readable manifest" in step_dirs.damage(step_dirs.absolute(folder), 3)
    old = json.loads((folder / "2.sha256.json").read_text())
    del old["sha256"]  # as they were before they had one
    (folder / "2.sha256.json").write_text(json.dumps(old))
    assert step_dirs.damage(step_dirs.absolute(folder), 2) is None


@pytest.mark.parametrize("surface", ["save", "wait", "close"])
def test_an_error_in_the_background_surfaces_once(tmp_path, monkeypatch, surface):
    checkpoints = opened(tmp_path)
    monkeypatch.setattr(step_dirs, "fingerprint", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    checkpoints.save(1, make_state(1), {})
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoints.save(2, make_state(2), {}) if surface == "save" else getattr(checkpoints, surface)()
    monkeypatch.undo()
    checkpoints.wait()
    assert checkpoints.latest_step() is None and available(tmp_path) == []


def test_leaving_with_an_error_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.setattr(step_dirs, "fingerprint", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(KeyError), opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        raise KeyError


def test_a_mismatch_names_the_first_path_and_both_shapes(folder):
    with opened(folder) as checkpoints:
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore(abstract_of(make_state(width=32)))
        message = str(error.value)
        assert "nets/net/params/Dense_0/bias: the checkpoint has bfloat16[16], the model bfloat16[32]" in message
        assert "\n" not in message
        with pytest.raises(CheckpointError, match=r"nets/net/ema/.*the checkpoint has .*, the model nothing"):
            checkpoints.restore(abstract_of(make_state(ema=False)))
        with pytest.raises(CheckpointError, match="step 9 cannot be used: there is none"):
            checkpoints.restore(abstract_of(make_state()), 9)


def test_watching_writes_nothing(folder):
    flip_bit(biggest_file(folder / "3"))
    (folder / "4").mkdir()
    (folder / "5.orbax-checkpoint-tmp").mkdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert available(folder) == [1, 2, 3]
    step, state, loop = load(folder, abstract_of(make_state()))
    assert (step, int(state.step), loop["count"]) == (2, 2, 2)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(CheckpointError, match="sha256 differs"):
        load(folder, abstract_of(make_state()), 3)
    with pytest.raises(CheckpointError, match="names no best step"):
        load(folder, abstract_of(make_state()), "best")
    with pytest.raises(ConfigError, match="'newest'"):
        load(folder, abstract_of(make_state()), "newest")
