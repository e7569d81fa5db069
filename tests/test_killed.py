"""Kill -9, the same command again: state, metrics.jsonl and the final evaluation equal an uninterrupted run's."""

import os
import signal
import subprocess
import sys

import jax
import pytest
from members import MEMBERS, ROOT, SMALLEST, assert_same, smoke, smoke_spec

from gen_jax.core.state import path_name
from gen_jax.runs import restore
from gen_jax.runs.run_dir import RunDir
from gen_jax.training.program import Program

FLAGS = ("total_steps=24", "log_every=4", "eval_every=8", "save_every=6", "mesh.data=1")


def gen_jax(path, workdir, where="never", number=0, more=()):
    """Exit code of a run in a process of its own, killed as `killed.py` says."""
    command = [sys.executable, str(ROOT / "tests/killed.py"), where, str(number), "train"]
    flags = [f"--config={smoke_spec(path)}", f"--workdir={workdir}", *(f"--config.{flag}" for flag in (*FLAGS, *more))]
    env = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run([*command, *flags], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    if done.returncode not in (0, -signal.SIGKILL):
        pytest.fail(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode


def final_state(path, workdir):
    flags = [flag for flag in FLAGS if not flag.startswith("mesh")]
    program = Program(smoke(path, *flags))
    step, state, _ = restore.load(RunDir(workdir).checkpoints, program.abstract)
    assert step == 24
    return state


def resumes(path, tmp_path, kills=(("step", 10),)):
    """Step 10 is after the first checkpoint."""
    assert gen_jax(path, tmp_path / "whole") == 0
    for where, number in kills:
        assert gen_jax(path, tmp_path / "killed", where, number) == -signal.SIGKILL, where
    assert gen_jax(path, tmp_path / "killed") == 0
    whole, killed = RunDir(tmp_path / "whole"), RunDir(tmp_path / "killed")
    assert killed.metrics.read_bytes() == whole.metrics.read_bytes()
    assert_same(final_state(path, whole.path), final_state(path, killed.path))
    assert any(not key.startswith(("train/", "step")) for key in killed.rows()[-1])


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_wherever_it_is_killed(tmp_path):
    kills = (("step", 3), ("save", 1), ("manifest", 2), ("evaluated", 1), ("step", 2))
    resumes(SMALLEST["vae"], tmp_path, kills)


@pytest.mark.slow
@pytest.mark.parametrize("member", sorted(set(MEMBERS) - {"vae"}))
def test_a_killed_run_of_any_model_resumes_bit_for_bit(member, tmp_path):
    resumes(MEMBERS[member], tmp_path)


@pytest.mark.slow
def test_a_killed_run_resumes_with_its_spectral_vectors(tmp_path):
    path = "experiments/gan/mnist.py:kind=conditional"
    resumes(path, tmp_path)
    stats = final_state(path, tmp_path / "killed").nets["disc"].stats
    names = [path_name(place) for place, _ in jax.tree_util.tree_leaves_with_path(stats)]
    assert sum(name.endswith("/u") for name in names) == 5  # of the layers; compared bit for bit, as all of the state


def test_sigterm_exits_with_75_and_wrong_input_with_2(tmp_path):
    env = {**os.environ, "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "gen_jax.cli", "train", f"--config={SMALLEST['vae']}:smoke"]
    long = [f"--workdir={tmp_path / 'run'}", "--config.total_steps=2000000", "--config.save_every=0"]
    process = subprocess.Popen([*command, *long], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("train:"):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 75, rest
    assert RunDir(tmp_path / "run").status()["state"] == "preempted"
    wrong = subprocess.run([*command, "--config.optim.net.lrr=1"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
