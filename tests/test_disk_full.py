"""A disk that is full at any write of a run: exit code 4, one line, and the same command then ends as if with room."""

import contextlib
import errno
import math
import os
import subprocess
import sys

import pytest
from members import ROOT, SMALLEST, assert_same, smoke
from test_killed import FLAGS, final_state

from gen_jax import cli
from gen_jax.runs import status
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train

VAE = SMALLEST["vae"]
TINY = ("total_steps=4", "log_every=2", "eval_every=4", "save_every=2")
room = {"left": math.inf}  # files and folders below `below` that the disk still has room for


def _hook(event, args):
    """Python's writers, Orbax's among them. Overwriting a file in place needs no room."""
    if room["left"] == math.inf or not str(args[0] if args else "").startswith(room["below"]):
        return
    if event == "os.mkdir" or (event == "open" and args[2] & os.O_CREAT):
        room["left"] -= 1
        if room["left"] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))


sys.addaudithook(_hook)


def attempt(workdir, left=math.inf):
    """Exit code of a run on a disk with room for `left` new files and folders."""
    room.update(left=left, below=str(workdir))
    try:
        with cli.reported():
            train(smoke(SMALLEST["linear_ar"], *TINY), workdir)
        return 0
    except SystemExit as end:
        return end.code
    finally:
        room.update(left=math.inf, after=room["left"])


def complaint(err):
    """What stderr says besides progress."""
    return [line for line in err.splitlines() if not line.lstrip().startswith(("train", "step ", "warning: step "))]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """metrics.jsonl of a run on a disk with room, and how many files and folders it makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "BEAT_S", 10**6)
        workdir = tmp_path_factory.mktemp("tiny") / "run"
        assert attempt(workdir, 10**6) == 0
        writes = 10**6 - room["after"]
        return RunDir(workdir).metrics.read_bytes(), writes


def fails_and_continues(workdir, left, expected, capfd):
    capfd.readouterr()
    assert attempt(workdir, left) == 4, left
    said = complaint(capfd.readouterr().err)
    assert len(said) == 1 and said[0].startswith("gen-jax: ") and os.strerror(errno.ENOSPC) in said[0], (left, said)
    assert RunDir(workdir).status().get("state", "failed") == "failed", left
    assert attempt(workdir) == 0, capfd.readouterr().err
    assert RunDir(workdir).metrics.read_bytes() == expected, left
    assert RunDir(workdir).status()["state"] == "done"


def test_a_disk_that_is_full_at_some_writes(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(status, "BEAT_S", 10**6)
    expected, writes = tiny
    for left in (writes // 2, 3 * writes // 4):  # Orbax's own number differs by a few from run to run
        fails_and_continues(tmp_path / str(left), left, expected, capfd)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Orbax leaves coroutines of failed saves
def test_a_disk_that_is_full_at_any_write(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(status, "BEAT_S", 10**6)
    expected, writes = tiny
    for left in range(writes - 4):  # Orbax's own number differs by a few from run to run
        fails_and_continues(tmp_path / str(left), left, expected, capfd)


def gen_jax(workdir):
    """Exit code and stderr of a run in a process of its own."""
    flags = [f"--config={VAE}:smoke", f"--workdir={workdir}", *(f"--config.{flag}" for flag in FLAGS)]
    command = [sys.executable, "-m", "gen_jax.cli", "train", *flags]
    env = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@contextlib.contextmanager
def tmpfs(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root mounts a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = RunDir(tmp_path_factory.mktemp("whole") / "run")
    assert gen_jax(run.path)[0] == 0
    return run


@pytest.mark.slow
@pytest.mark.parametrize("size", ["20k", "200k", "260k", "320k", "500k"])
def test_a_tmpfs_that_is_full(size, whole, tmp_path):
    with tmpfs(tmp_path / "disk", size) as disk:
        code, err = gen_jax(disk / "run")
        said = complaint(err)
        assert code == 4 and len(said) == 1 and "No space left on device" in said[0], (code, said)
        assert RunDir(disk / "run").status().get("state", "failed") == "failed"
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert gen_jax(disk / "run")[0] == 0
        assert RunDir(disk / "run").metrics.read_bytes() == whole.metrics.read_bytes()
        assert_same(final_state(VAE, disk / "run"), final_state(VAE, whole.path))
