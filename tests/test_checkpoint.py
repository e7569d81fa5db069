"""Checkpoints against what breaks them: flipped bits, kills, full disks, other meshes, other models."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from saved import abstract_of, assert_equal, biggest_file, flip_bit, folder, make_state, opened, put  # noqa: F401

from gen_jax.errors import CheckpointError
from gen_jax.runs import step_dirs
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.runs.run_dir import RunDir
from gen_jax.runs.step_dirs import available

ROOT = Path(__file__).resolve().parent.parent


def test_saved_on_8_devices_restores_on_8_4_and_1(tmp_path):
    state = make_state(7)
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(7, put(state, 8), {"best": 0.1, "window": {"loss": [0.3, 1.0]}})
    for devices in (8, 4, 1):
        wanted = abstract_of(state, devices)
        with opened(tmp_path / "c") as checkpoints:
            step, restored, loop = checkpoints.restore(wanted)
        assert step == 7 and loop == {"best": 0.1, "window": {"loss": [0.3, 1.0]}}
        assert_equal(restored, state)
        assert (
            restored.nets["net"].params["Dense_0"]["kernel"].sharding
            == wanted.nets["net"].params["Dense_0"]["kernel"].sharding
        )


def test_donating_the_state_right_after_save_does_not_reach_the_checkpoint(tmp_path):
    bump = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = bump(make_state(0, width=100_000))
    expected = jax.tree.map(np.array, state)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(5):
            state = bump(state)
        jax.block_until_ready(state)
        _, restored, _ = checkpoints.restore(abstract_of(expected))
    assert_equal(restored, expected)


def test_nothing_saved_yet(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.restore(abstract_of(make_state())) is None


def test_a_flipped_bit_is_found_and_the_step_before_is_used(folder, caplog):
    flip_bit(biggest_file(folder / "3"))
    with caplog.at_level(logging.WARNING), opened(folder) as checkpoints:
        step, state, loop = checkpoints.restore(abstract_of(make_state()))
        assert (step, int(state.step), loop["count"]) == (2, 2, 2)
        assert "step 3 is put aside as 3.damaged" in caplog.text and "sha256 differs" in caplog.text
        checkpoints.save(3, make_state(3), {})
    assert (folder / "3.damaged").is_dir() and available(folder) == [1, 2, 3]


def test_every_flipped_bit_in_every_file_is_found(folder):
    for file in sorted(file for file in (folder / "3").rglob("*") if file.is_file() and file.stat().st_size):
        flip_bit(file)
        assert "sha256 differs" in step_dirs.damage(step_dirs.absolute(folder), 3), file
        flip_bit(file)
    assert step_dirs.damage(step_dirs.absolute(folder), 3) is None


@pytest.mark.parametrize("break_it", [
    lambda folder: (folder / "7").mkdir(),
    lambda folder: [(folder / "7").mkdir(), (folder / "7.sha256.json").write_text("{")],
    lambda folder: (folder / "3.sha256.json").unlink(),
    lambda folder: biggest_file(folder / "3").unlink(),
    lambda folder: os.truncate(biggest_file(folder / "3"), 5),
])  # fmt: skip
def test_unfinished_and_damaged_steps_are_put_aside(folder, break_it):
    break_it(folder)
    with opened(folder) as checkpoints:
        newest, state, _ = checkpoints.restore(abstract_of(make_state()))
    assert newest == (3 if (folder / "7.damaged").exists() else 2)
    assert_equal(state, make_state(newest))
    assert not (folder / "7").exists()


def test_no_intact_checkpoint_is_an_error_and_nothing_is_renamed(folder):
    for step in (1, 2, 3):
        flip_bit(biggest_file(folder / str(step)))
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(CheckpointError, match="no checkpoint is intact"):
        opened(folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_first_save_that_was_cut_off_starts_again(tmp_path):
    (tmp_path / "5").mkdir()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None


def test_manifests_that_are_gone_from_a_trained_run_are_an_error_or_trusted(tmp_path):
    run = RunDir(tmp_path / "run")
    run.create({"seed": 0})
    run.metrics.write_text('{"step": 2}\n')
    with opened(run.checkpoints) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), {"best_step": 1})
    for step in (1, 2):
        step_dirs.manifest_path(run.checkpoints, step).unlink()
    before = sorted(path.name for path in run.checkpoints.iterdir())
    with pytest.raises(CheckpointError, match=r"manifests .* are gone; .*--trust_checkpoints"):
        opened(run.checkpoints)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == before
    with Checkpoints(run.checkpoints, 3, 100.0, trust=True) as checkpoints:
        step, state, loop = checkpoints.restore(abstract_of(make_state()))
    assert (step, int(state.step), loop) == (2, 2, {"best_step": 1})


@pytest.mark.parametrize(
    ("gone", "message"),
    [("*", "the checkpoints of this run are gone; bring them back"), ("[0-9]", "are gone, not their manifests")],
)
def test_steps_that_are_gone_from_a_trained_run_are_an_error(tmp_path, gone, message):
    run = RunDir(tmp_path / "run")
    run.create({"seed": 0})
    run.metrics.write_text('{"step": 2}\n')
    with opened(run.checkpoints) as checkpoints:
        checkpoints.save(2, make_state(2), {"best_step": None})
    for child in run.checkpoints.glob(gone):
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    if gone == "*":
        run.checkpoints.rmdir()
    left = sorted(Path(run.path).rglob("*"))
    run.create({"seed": 0})
    with pytest.raises(CheckpointError, match=message):
        opened(run.checkpoints)
    assert sorted(Path(run.path).rglob("*")) == left
    run.metrics.unlink()
    with opened(run.checkpoints) as checkpoints:
        assert checkpoints.latest_step() is None


def test_a_first_save_of_a_trained_run_that_was_killed_starts_again(tmp_path):
    run = RunDir(tmp_path / "run")
    run.create({"seed": 0})
    run.metrics.write_text('{"step": 5}\n')
    (run.checkpoints / "5").mkdir()
    step_dirs.saving_path(run.checkpoints, 5).touch()
    with opened(run.checkpoints) as checkpoints:
        assert checkpoints.latest_step() is None
    assert not step_dirs.saving_path(run.checkpoints, 5).exists()


def test_a_step_of_another_run_or_model_is_put_aside(tmp_path, caplog):
    runs = [RunDir(tmp_path / name) for name in "ab"]
    for run, steps, width in zip(runs, ((1, 2), (3,)), (16, 32), strict=True):
        run.create({"seed": 0})
        with opened(run.checkpoints) as checkpoints:
            for step in steps:
                checkpoints.save(step, make_state(step, width), {"best_step": None})
    shutil.copytree(runs[1].checkpoints, runs[0].checkpoints, dirs_exist_ok=True)
    with caplog.at_level(logging.WARNING), opened(runs[0].checkpoints) as checkpoints:
        assert checkpoints.restore(abstract_of(make_state()))[0] == 2
    assert "step 3 is put aside as 3.damaged: it is of another run" in caplog.text
    for child in runs[0].checkpoints.glob("3.*"):
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    with opened(runs[0].checkpoints) as checkpoints:
        checkpoints.save(3, make_state(3, width=32), {"best_step": None})
    with caplog.at_level(logging.WARNING), opened(runs[0].checkpoints) as checkpoints:
        assert checkpoints.restore(abstract_of(make_state()))[0] == 2
        assert available(runs[0].checkpoints) == [1, 2]
    assert "the checkpoint has bfloat16[32], the model bfloat16[16]; it is put aside" in caplog.text


KILLED = """
import os, signal, sys, time
from gen_jax.runs import step_dirs
from tests.saved import make_state, opened
folder, where = sys.argv[1:]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
checkpoints = opened(folder, keep=2)
for step in range(1, 50):
    if step == 4 and where == "before the manifest":
        step_dirs.fingerprint = die
    if step == 4 and where == "in the manifest":
        step_dirs.write_atomic = lambda path, text: [(path.parent / f".{path.name}.tmp").write_text(text[:9]), die()]
    if step == 4 and where == "in a deletion":
        type(checkpoints._directory).rmtree = die
    checkpoints.save(step, make_state(step, width=20_000), {"best_step": None})
    checkpoints.wait()
    print(step, flush=True)
"""


@pytest.mark.parametrize(("where", "expected"), [
    ("before the manifest", 3), ("in the manifest", 3), ("in a deletion", 4), ("while files are written", None),
])  # fmt: skip
def test_kill_9_inside_a_save(tmp_path, where, expected):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder = tmp_path / "checkpoints"
    child = subprocess.Popen([sys.executable, "-c", KILLED, folder, where], env=env, stdout=subprocess.PIPE, text=True)
    finished = 0
    for line in child.stdout:
        finished = int(line)
        if expected is None and finished == 3:
            deadline = time.monotonic() + 60
            while not any(folder.glob("*.orbax-checkpoint-tmp/*")) and time.monotonic() < deadline:
                pass
            child.send_signal(signal.SIGKILL)
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    with opened(folder, keep=2) as checkpoints:
        step, state, _ = checkpoints.restore(abstract_of(make_state(width=20_000)))
        assert step >= finished and step == (expected or step)
        assert_equal(state, make_state(step, width=20_000))
        checkpoints.save(step + 1, make_state(step + 1, width=20_000), {"best_step": None})
    assert available(folder) == [step, step + 1]
    left = {path.name for path in folder.iterdir()} - {f"{step + 1}.damaged"}
    assert left == {str(step), str(step + 1), f"{step}.sha256.json", f"{step + 1}.sha256.json"}


def test_the_manifest_lists_every_file(folder):
    manifest = json.loads((folder / "3.sha256.json").read_text())
    files = {str(file.relative_to(folder / "3")) for file in (folder / "3").rglob("*") if file.is_file()}
    assert set(manifest["files"]) == files and manifest["step"] == 3
