"""Slurm: what a job would run, word for word, and when it asks for another start; a real Slurm in the slow tests."""

import csv
import json
import re
import subprocess
import sys

import cluster
import launcher
import pytest
import slurm
from cluster import Slurm, wait_for
from members import ROOT, SMALLEST, assert_same, smoke

from gen_jax import cli, errors
from gen_jax.runs import restore
from gen_jax.runs.run_dir import RunDir
from gen_jax.training.program import Program

VAE = f"--config={SMALLEST['vae']}:smoke"
ODD = 'it\'s "a" $(touch pwned) `id` \\ * #\n ; é'
SRUN = f"""#!{sys.executable}
import json, os, sys
json.dump(sys.argv[1:], open("words.json", "w"))
sys.exit(int(os.environ["CODE"]))
"""
SQUEUE = """#!/bin/sh
case "$*" in
  *"--jobs=$ONE "*) echo "$STATE" ;;
  *"--jobs=7 "*) echo PENDING; echo "$STATE" ;;  # each task of an array
esac
"""
SCONTROL = '#!/bin/sh\necho "$@" > requeued\n'


def written(capsys, *argv):
    """The batch script."""
    slurm.main([*argv[: argv.index("--")], "--dry_run", *argv[argv.index("--") :]])
    return capsys.readouterr().out


def ran(script, folder, code=0, state="RUNNING", task=None):
    """What `srun` got, and whether the script asked for another start, in a folder with commands that play Slurm.

    A `task` is the last of an array, to which Slurm gives the number of the array.
    """
    for name, text in {"srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    one = "7" if task is None else f"7_{task}"
    env = {"PATH": f"{folder}:/usr/bin:/bin", "CODE": str(code), "STATE": state, "ONE": one}
    env |= {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "99"}  # which counts preemptions too
    env |= {} if task is None else {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}
    (folder / "requeued").unlink(missing_ok=True)
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
    asked = folder / "requeued"
    assert not asked.exists() or asked.read_text() == f"requeue {one}\n"
    return json.loads((folder / "words.json").read_text()), asked.exists()


def test_words_reach_the_job_as_they_are(capsys, tmp_path):
    command = ["train", VAE, f"--workdir={tmp_path}/a %j {ODD[:12]}", f"--config.init_from.workdir={ODD}"]
    setup = tmp_path / "it's $(touch pwned)"
    setup.write_text("PATH=$PATH:sourced")
    options = ["--nodes=2", "--cpus_per_task=4", f"--job_name={ODD[:30]}", f"--setup={setup}"]
    script = written(capsys, *options, "--", *command)
    words, _ = ran(script, tmp_path)
    start = [sys.executable, "-m", "gen_jax.cli"]
    assert words == ["--label", "--kill-on-bad-exit=0", "--cpus-per-task=4", *start, *command]
    assert not list(tmp_path.glob("**/pwned"))
    assert all(f"export {name}={value}\n" in script for name, value in launcher.MALLOC.items())
    head = script.partition("\n\n")[0].splitlines()
    assert head[0] == "#!/bin/bash" and all(line.startswith("#SBATCH ") for line in head[1:])
    assert {"#SBATCH --nodes=2", "#SBATCH --requeue", "#SBATCH --open-mode=append"} < set(head)
    assert "/a %%j " in next(line for line in head if "--output=" in line)  # a percent sign of the user's


@pytest.mark.parametrize(
    ("code", "state", "again"),
    [
        (errors.Preempted.code, "RUNNING", True),
        (errors.Preempted.code, "COMPLETING", False),  # cancelled
        (143, "RUNNING", True),  # preempted while it started
        (errors.Lost.code, "RUNNING", True),
        (errors.Lost.code, "COMPLETING", False),
        (137, "RUNNING", True),
        (0, "RUNNING", False),
        (1, "RUNNING", False),
        *((error.code, "RUNNING", False) for error in (errors.ConfigError, errors.NonFiniteError)),
        *((error.code, "RUNNING", False) for error in (errors.CheckpointError, errors.DataError)),
    ],
)
def test_which_ends_ask_for_another_start(code, state, again, capsys, tmp_path):
    script = written(capsys, "--", "train", VAE, f"--workdir={tmp_path}")
    (tmp_path / "logs").mkdir()
    assert ran(script, tmp_path, code, state)[1] == again


@pytest.mark.parametrize("task", [None, 3])
def test_only_a_run_that_hangs_or_loses_a_process_counts_its_restarts(task, capsys, tmp_path):
    workdir, lost, stopped = tmp_path / "it's %j", errors.Lost.code, errors.Preempted.code
    script = written(capsys, "--max_restarts=2", "--", "train", VAE, f"--workdir={workdir}")
    (workdir / "logs").mkdir(parents=True)
    kept = workdir / "logs" / (".restarts_7" if task is None else f".restarts_7_{task}")
    for codes, again in (((stopped,) * 9, True), ((lost, stopped, 137), True), ((lost,), False)):
        assert all(ran(script, tmp_path, code, task=task)[1] == again for code in codes)
        assert kept.exists() == (again and lost in codes)
    assert [ran(script, tmp_path, code, task=task)[1] for code in (lost, 0, lost, lost)] == [True, False, True, True]
    assert kept.read_text() == f"{lost}\n{lost}\n" and [*kept.parent.iterdir()] == [kept]


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("3", 180), ("3:20", 200), ("1:00:01", 3601), ("1-2", 93_600), ("1-2:3", 93_780), ("1-2:3:4", 93_784)],
)
def test_a_time_is_read_as_slurm_does(limit, seconds):
    assert slurm._seconds(limit) == seconds


def test_an_array_has_a_task_for_each_trial(capsys, tmp_path):
    sweep = ["sweep", VAE, f"--workdir={tmp_path / 'd'}", "--search=random", "--trials=5", "--workers=2"]
    script = written(capsys, "--array", "--", *sweep)
    assert "#SBATCH --array=0-4%2\n" in script and "slurm_%A_%a.log" in script
    words, again = ran(script, tmp_path, errors.Preempted.code, task=4)
    assert words[-len(sweep) - 1 :] == [*sweep, "--trial=4"] and again
    assert not ran(script, tmp_path, task=4)[1]
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("options", "command", "says"),
    [
        (["--nodez=2"], ["train"], "unrecognized arguments: --nodez=2"),
        (["train"], [], "--: expected a gen-jax command after it"),
        (["--nodes=0"], ["train"], "--nodes: expected at least 1, got 0"),
        (["--nodes=two"], ["train"], "--nodes: expected an integer, got 'two'"),
        (["--grace=0"], ["train"], "--grace: expected at least 1, got 0"),
        (["--partition=a\nb"], ["train"], "--partition: expected one line, got"),
        (["--time=2", "--grace=90"], ["train"], "--time: expected at least 150 s beside --grace=90"),
        (["--time=1h"], ["train"], "--time: expected [days-]hours:minutes:seconds, got '1h'"),
        (["--setup=nowhere"], ["train"], "--setup: expected a file, got 'nowhere'"),
        (["--array"], ["train"], "--array: expected a sweep after --, got train"),
        (["--array"], ["sweep", "--search=tpe"], "--search: expected grid or random beside --trial, got tpe"),
        ([], ["sweep", "--search=random", "--workers=0"], "--workers: expected at least 1, got 0"),
        (["--nodes=2"], ["bench"], "--nodes: expected one process for bench, got 2"),
        (["--nodes=2", "--gpus_per_node=8", "--ntasks_per_node=1"], ["train"], "--ntasks_per_node: expected 8"),
        ([], ["trian"], "invalid choice: 'trian'"),
        ([], ["train", "--config.optim.net.lrr=1"], "unknown key; did you mean lr?"),
        ([], ["train", "--num_processes=2"], "--num_processes: expected none after --"),
        ([], ["train"], "sbatch: not found here; --dry_run prints what it would get"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(options, command, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    paths = [VAE] * (command != ["trian"]) + [f"--workdir={tmp_path / 'd'}"] * (command[:1] != ["bench"])
    with pytest.raises(SystemExit) as ended, cli.reported():
        slurm.main([*options, *(["--", *command, *paths] if command else [])])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and says in error


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A Slurm of one machine."""
    if reason := cluster.why_not():
        pytest.skip(reason)
    with cluster.started(tmp_path_factory.mktemp("slurm")) as found:
        yield found


def log_of(workdir) -> str:
    return "".join(path.read_text() for path in sorted((workdir / "logs").glob("slurm_*.log")))


def rows(workdir) -> int:
    return len(RunDir(workdir).rows())


TWO = ("--nodes=1", "--ntasks_per_node=2")


@pytest.mark.slow
def test_a_preempted_job_saves_requeues_and_ends_bit_for_bit(machine: Slurm, tmp_path):
    """Two processes; what preempts them is the same training, which nothing interrupts."""
    flags = ("total_steps=600", "log_every=20", "eval_every=0", "save_every=0")
    train = ["--", "train", VAE, *(f"--config.{flag}" for flag in flags)]
    stopped, whole = tmp_path / "it's stopped", tmp_path / "whole"
    held = ("--partition=high", "--sbatch=--exclusive", "--sbatch=--hold")
    other = machine.submit(*TWO, *held, *train, f"--workdir={whole}")
    job = machine.submit(*TWO, *train, f"--workdir={stopped}")
    wait_for(lambda: RunDir(stopped).status(), "the job trains")
    machine.run("scontrol", "release", other)
    wait_for(lambda: RunDir(stopped).status()["state"] == "preempted", "the job is preempted")
    at = RunDir(stopped).status()["step"]
    assert 0 < at < 600 and (stopped / f"checkpoints/{at}.sha256.json").exists()
    wait_for(lambda: machine.jobs().get(job) == "PENDING", "the job is requeued")
    for name, workdir in ((other, whole), (job, stopped)):
        wait_for(lambda name=name: name not in machine.jobs(), f"the end in {workdir}", 400)
        assert RunDir(workdir).status()["state"] == "done", log_of(workdir)
    starts = json.loads((stopped / "manifest.json").read_text())["starts"]
    assert [start["processes"] for start in starts] == [2, 2]
    assert f"0: gen-jax: stopped at step {at}" in log_of(stopped) and f"1: gen-jax: stopped at step {at}" in log_of(
        stopped
    )
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    program = Program(smoke(SMALLEST["vae"], *flags, devices=2))
    (one, here, _), (two, there, _) = (
        restore.load(RunDir(path).checkpoints, program.abstract) for path in (stopped, whole)
    )
    assert one == two == 600
    assert_same(here, there)


@pytest.mark.slow
def test_a_cancelled_job_saves_and_stays_cancelled(machine: Slurm, tmp_path):
    job = machine.submit("--", "train", VAE, f"--workdir={tmp_path / 'run'}", "--config.total_steps=2000000")
    wait_for(lambda: rows(tmp_path / "run"), "the first row")
    machine.run("scancel", job)
    wait_for(lambda: RunDir(tmp_path / "run").status()["state"] == "preempted", "it saves")
    wait_for(lambda: job not in machine.jobs(), "its end")
    shown = machine.run("scontrol", "show", "job", job)
    assert re.search(r"JobState=CANCELLED .*Restarts=0 ", shown, re.DOTALL), shown


@pytest.mark.slow
def test_an_array_trains_the_trials_of_a_sweep(machine: Slurm, tmp_path, capsys):
    file = tmp_path / "config.py"
    start = f"import runpy\nglobals().update(runpy.run_path({str(ROOT / SMALLEST['vae'])!r}))\n"
    space = 's.maximize("test/elbo")\n    s.choice("model.latent", (2, 4))'
    file.write_text(f"{start}\n\ndef sweep(s):\n    {space}\n")
    sweep = ["sweep", f"--config={file}:smoke", f"--workdir={tmp_path / 'd'}", "--search=grid", "--workers=2"]
    machine.submit("--array", "--", *sweep)
    wait_for(lambda: not machine.jobs(), "the end of the array")
    runs = [RunDir(tmp_path / "d/trials" / name) for name in ("000", "001")]
    assert [run.status()["state"] for run in runs] == ["done", "done"], log_of(tmp_path / "d")
    assert [run.config()["model"]["latent"] for run in runs] == [2, 4]
    cli.main(sweep)
    assert "complete" in capsys.readouterr().out
    assert [len(json.loads(run.manifest_file.read_text())["starts"]) for run in runs] == [1, 1]
    with open(tmp_path / "d/results.csv") as text:
        assert [row["state"] for row in csv.DictReader(text)] == ["complete", "complete"]


@pytest.mark.slow
def test_each_task_of_an_array_is_started_again_by_itself(machine: Slurm, tmp_path):
    """Preempted, then lost; the function plays the trial. Both tasks are in the queue when either asks."""
    starts, setup = tmp_path / "starts", tmp_path / "setup"
    again = '"$SLURM_ARRAY_TASK_ID ${SLURM_RESTART_COUNT:-0}"'
    play = (
        f"echo {again} >> {starts}; sleep 2; case ${{SLURM_RESTART_COUNT:-0}} in 0) return 75 ;; 1) return 76 ;; esac"
    )
    setup.write_text(f"srun() {{ {play}; }}\n")
    sweep = ["sweep", VAE, f"--workdir={tmp_path / 'd'}", "--search=random", "--trials=2", "--workers=2"]
    machine.submit("--array", "--max_restarts=1", f"--setup={setup}", "--", *sweep)
    wait_for(lambda: not machine.jobs(), "the end of the array")
    assert sorted(starts.read_text().splitlines()) == [f"{task} {n}" for task in range(2) for n in range(3)]
    assert not [*(tmp_path / "d/logs").glob(".restarts_*")]
