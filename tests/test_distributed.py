"""Two processes train as one does; they start, are stopped, and die together."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hosts
import numpy as np
import pytest
from hosts import CASES
from members import ROOT, SMALLEST

from gen_jax import cli
from gen_jax.parallel import distributed
from gen_jax.parallel.watchdog import HUB_GONE
from gen_jax.runs.run_dir import RunDir

QUICK = ["vae"]


def equal(cases, tmp_path):
    """20 steps and a checkpoint of 1 process x 4 devices against those of 2 processes x 2 devices."""
    programs = {case: hosts.program(case) for case in cases}
    ones = {}
    for case, program in programs.items():
        state, seen = hosts.trained(program)
        hosts.save(state, tmp_path / case / "one")
        ones[case] = seen, hosts.restored(program, tmp_path / case / "one")
    hosts.two_processes(Path(hosts.__file__), str(tmp_path), *cases)
    for case, (seen, leaves) in ones.items():
        two = json.loads((tmp_path / case / "two.json").read_text())
        assert two["restored"] == [float(np.sum(leaf, dtype=np.float64)) for leaf in leaves], case
        for step, (here, there) in enumerate(zip(seen, two["seen"], strict=True)):
            assert there == pytest.approx(here, rel=1e-5, abs=1e-6), (case, step)
        for here, there in zip(leaves, hosts.restored(programs[case], tmp_path / case / "two"), strict=True):
            np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-5, err_msg=case)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    equal(QUICK, tmp_path)


@pytest.mark.slow
def test_two_processes_equal_one_for_each_family_and_rule(tmp_path):
    equal([case for case in CASES if case not in QUICK], tmp_path)


VAE = f"--config={SMALLEST['vae']}:smoke"
# a signal or a loss comes while steps are made; compiling has its time before
LONG = ("--config.total_steps=2000000", "--config.eval_every=0", "--config.save_every=0", "--config.log_every=200")
LIMIT_S = 60  # longer than compiling takes on a busy machine


def gen_jax(workdir, *flags):
    """A local run of two processes of 2 devices, as a user starts it."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gen_jax.cli", "train", VAE, f"--workdir={workdir}", "--num_processes=2"]
    return subprocess.Popen([*command, *flags], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


def is_training(process):
    """Waits for a line of process 0's that says so."""
    for line in process.stderr:
        if line.startswith("train:"):
            return
    pytest.fail("the run ended before it trained")


def children(process):
    """The processes of a run, by their number."""
    found = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(v[-1:]): int(pid) for v in variables if v.startswith(b"JAX_PROCESS_ID=")}
    return found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=0"], "--num_processes: expected at least 1, got 0"),
        (["--num_processes=65"], "--num_processes: expected at most 64 on one machine, got 65"),
        (["--process_id=1"], "--process_id: expected --coordinator beside it"),
        (
            ["--coordinator=here", "--num_processes=2", "--process_id=0"],
            "--coordinator: expected HOST:PORT, got 'here'",
        ),
        (["--coordinator=a:1"], "--num_processes: expected the number of processes beside --coordinator"),
        (["--coordinator=a:1", "--num_processes=2"], "--process_id: expected 0 to 1, got None"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "--process_id: expected 0 to 1, got 2"),
        (["--num_processes=3"], "--num_processes: expected a divisor of the 4 devices in XLA_FLAGS"),
        (["--num_processes=2", "--workdir=gs://a/b"], "--num_processes: expected a local workdir"),
        (["--config.hang_limit_s=-1"], "config.hang_limit_s: expected"),
    ],
)
def test_wrong_input_is_one_line(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", VAE, f"--workdir={tmp_path / 'run'}", *flags])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and message in error


def test_a_number_in_the_environment_that_is_none_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(SystemExit):
        cli.main(["train", VAE, f"--workdir={tmp_path / 'run'}"])
    assert "JAX_NUM_PROCESSES: expected a number, got 'two'" in capsys.readouterr().err


@pytest.mark.parametrize(("tasks", "found"), [("2", True), ("1", False)])
def test_slurm_is_known(tasks, found, monkeypatch):
    variables = {"JOB_ID": "7", "STEP_NODELIST": "node[1-2]", "NTASKS": tasks, "PROCID": "0", "LOCALID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert distributed._in_a_cluster() == found


@pytest.mark.parametrize(
    ("codes", "code", "said"),
    [((75, 75), 75, ""), ((1, 5), 5, "gen-jax: process 1 ended with exit code 5; see logs/process_1.log\n")],
)
def test_only_what_process_0_did_not_say_is_said_for_it(codes, code, said, capsys):
    commands = [["sh", "-c", f"sleep {0.0 if rank else 0.5}; exit {end}"] for rank, end in enumerate(codes)]
    assert distributed._wait([subprocess.Popen(command) for command in commands], Path("logs")) == code
    assert capsys.readouterr().err == said


JOINED = """
import os, sys, types
from gen_jax.parallel import distributed
args = types.SimpleNamespace(coordinator=sys.argv[1], num_processes=3, process_id=int(sys.argv[2]))
with distributed.joined(args):
    print("joined", flush=True)
    if sys.stdin.readline() == "abort\\n":
        os.abort()
"""


def test_the_loss_of_process_0_is_a_line_and_another_abort_stays_one():
    address, env = hosts.free_address(), os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    with contextlib.ExitStack() as stack:
        processes = []
        for rank in range(3):
            command = [sys.executable, "-c", JOINED, address, str(rank)]
            processes.append(stack.enter_context(subprocess.Popen(command, **pipes)))
            stack.callback(processes[-1].kill)
        assert [process.stdout.readline() for process in processes] == ["joined\n"] * 3
        said = processes[2].communicate("abort\n", timeout=60)[1]
        assert processes[2].returncode == -signal.SIGABRT and HUB_GONE not in said
        processes[0].kill()
        said = processes[1].stderr.read()
        assert processes[1].wait(timeout=60) == 76
        assert said.endswith(f"gen-jax: {HUB_GONE}; the same command continues from the last checkpoint\n")


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(tmp_path, capsys):
    workdir = tmp_path / "run"
    cli.main(["train", VAE, f"--workdir={workdir}", "--config.mesh.data=1"])
    cli.main(["eval", f"--workdir={workdir}"])
    (alone,) = RunDir(workdir / "eval").rows()
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gen_jax.cli", "eval", f"--workdir={workdir}", "--num_processes=2"]
    for flags, code in (["--watch"], 2), ([], 0):
        done = subprocess.run([*command, *flags], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stderr
    assert done.stdout.count("step 8\n") == 1
    _, together = RunDir(workdir / "eval").rows()
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
def test_sigterm_to_one_saves_the_same_step_in_both(tmp_path):
    workdir = tmp_path / "run"
    process = gen_jax(workdir, *LONG)
    is_training(process)
    os.kill(children(process)[1], signal.SIGTERM)
    rest = process.communicate(timeout=200)[1]
    assert process.returncode == 75, rest
    (said,) = (line for line in rest.splitlines() if line.startswith("gen-jax: "))
    assert said in (workdir / "logs/process_1.log").read_text()  # with the number of the step
    status = RunDir(workdir).status()
    assert status["state"] == "preempted" and f"stopped at step {status['step']}" in said
    assert (workdir / "checkpoints" / f"{status['step']}.sha256.json").exists()
    assert RunDir(workdir).config() and not (workdir / "logs/process_0.log").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 0])
def test_where_one_is_killed_the_run_ends_and_names_it(rank, tmp_path):
    process = gen_jax(tmp_path / "run", *LONG)
    is_training(process)
    os.kill(children(process)[rank], signal.SIGKILL)
    started = time.monotonic()
    rest = process.communicate(timeout=200)[1]
    print(f"{time.monotonic() - started:.1f} s to the end")
    assert process.returncode == 76, rest
    assert f"gen-jax: process {rank} was ended by SIGKILL" in rest
    if rank == 1:
        assert "gen-jax: process 1 died: no heartbeat for" in rest
        assert RunDir(tmp_path / "run").status()["state"] == "lost"
    else:
        assert f"gen-jax: {HUB_GONE}; the same command" in (tmp_path / "run/logs/process_1.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 0])
def test_where_one_sleeps_all_name_it_and_show_their_stacks(rank, tmp_path):
    """It sleeps at its 50th dispatch; the processes are started one by one, as a cluster would."""
    address, processes = hosts.free_address(), []
    flags = [VAE, f"--workdir={tmp_path / 'run'}", *LONG, f"--config.hang_limit_s={LIMIT_S}"]
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(ROOT)}
    for i in range(2):
        where = ("sleep", "50") if i == rank else ("never", "0")
        group = [f"--coordinator={address}", "--num_processes=2", f"--process_id={i}"]
        command = [sys.executable, "tests/killed.py", *where, "train", *flags, *group]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=400)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [76, 76], said
    for text in said:
        assert f"gen-jax: process {rank} made no progress for {LIMIT_S} s (config.hang_limit_s)" in text
        assert "most recent call first" in text
    assert "in asleep" in said[rank] and "in asleep" not in said[1 - rank]
