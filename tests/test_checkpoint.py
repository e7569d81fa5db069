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
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gen_jax.core.state import Net, State
from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.runs import step_dirs
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.runs.restore import load
from gen_jax.runs.run_dir import RunDir
from gen_jax.runs.step_dirs import available
from gen_jax.training.init_from import load_into

ROOT = Path(__file__).resolve().parent.parent


def make_state(step=0, width=16, ema=True):
    """Every kind of leaf: sharded, bfloat16, integer, empty, None; every value follows from `step`."""
    params = {"Dense_0": {"kernel": jnp.full((8, width), step, jnp.float32), "bias": jnp.zeros((width,), jnp.bfloat16)}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    stats = {"batch_stats": {"mean": jnp.full((3,), step, jnp.float32)}}
    average = jax.tree.map(lambda x: x + 1, {"params": params, "stats": stats}) if ema else None
    net = Net(params=params, opt=tx.init(params), stats=stats, ema=average)
    return State(step=jnp.asarray(step, jnp.int32), nets={"net": net}, carry=None)


def abstract_of(state, devices=1):
    """Leading axes of 8 rows sharded over so many devices, the rest replicated."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])

    def leaf(x):
        spec = PartitionSpec("data") if x.ndim and x.shape[0] == 8 else PartitionSpec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(leaf, state)


def put(state, devices):
    return jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), state, abstract_of(state, devices))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def opened(folder, keep=3, hash_limit_mb=100.0):
    return Checkpoints(folder, keep, hash_limit_mb)


@pytest.fixture
def folder(tmp_path):
    """Steps 1, 2, 3, all intact."""
    with opened(tmp_path / "checkpoints") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {"best_step": None, "count": step})
    return tmp_path / "checkpoints"


def biggest_file(step_dir):
    return max((file for file in step_dir.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def flip_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


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


def test_a_part_is_loaded(folder):
    wanted = abstract_of(make_state())
    part = {"nets": {"net": {"opt": wanted.nets["net"].opt}}}  # tuples and named tuples inside
    _, tree, _ = load(folder, part, partial=True)
    assert_equal(tree["nets"]["net"]["opt"], make_state().nets["net"].opt)


@pytest.fixture
def other_run(tmp_path):
    run = RunDir(tmp_path / "other")
    run.create({"seed": 0})
    with opened(run.checkpoints) as checkpoints:
        checkpoints.save(4, make_state(4), {"best_step": 4})
    return run.path


def test_load_into_takes_the_averages_and_leaves_the_rest(other_run):
    new = put(make_state(0), 8)
    loaded = load_into(new, other_run, "best", {"net": "net"})
    average = make_state(4).nets["net"].ema
    net = loaded.nets["net"]
    assert_equal({"params": net.params, "stats": net.stats}, average)
    assert_equal(net.ema, average)
    assert_equal(net.opt, new.nets["net"].opt)
    assert int(loaded.step) == 0
    assert net.params["Dense_0"]["kernel"].sharding == new.nets["net"].params["Dense_0"]["kernel"].sharding
    jax.jit(lambda state: state, donate_argnums=0)(loaded)  # no buffer twice


def test_load_into_is_strict_but_for_what_is_allowed(other_run):
    new = make_state(0, width=32)
    with pytest.raises(CheckpointError, match=r"Dense_0/bias: the checkpoint has bfloat16\[16\], the model"):
        load_into(new, other_run)
    loaded = load_into(new, other_run, "4", {}, ("net/params/Dense_0/.*",)).nets["net"]
    assert_equal(loaded.params, new.nets["net"].params)
    assert_equal(loaded.stats, make_state(4).nets["net"].ema["stats"])
    with pytest.raises(ConfigError, match=r"expected some of \['net'\], found \['gen'\]"):
        load_into(new, other_run, nets={"gen": "net"})
    with pytest.raises(CheckpointError, match=r"nets/critic/.*the checkpoint has nothing"):
        load_into(new, other_run, nets={"net": "critic"})


def test_load_into_leaves_what_is_reset(other_run):
    """A leaf of the same shape, and one of another."""
    for width in (16, 32):
        new = make_state(0, width=width)
        loaded = load_into(new, other_run, reset=("net/params/Dense_0/(kernel|bias)",)).nets["net"]
        assert_equal(loaded.params, new.nets["net"].params)
        assert_equal(loaded.ema["params"], new.nets["net"].params)
        assert_equal(loaded.stats, make_state(4).nets["net"].ema["stats"])
    with pytest.raises(
        CheckpointError, match=r"kernel: the checkpoint has float32\[8, 16\], the model float32\[8, 32\]"
    ):
        load_into(make_state(0, width=32), other_run, reset=("net/params/Dense_0/bias",))


KILLED = """
import os, signal, sys, time
from gen_jax.runs import step_dirs
from tests.test_checkpoint import make_state, opened
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
