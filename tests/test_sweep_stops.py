"""Sweeps that are stopped, killed, or whose trials fail."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from fake_trainer import loss
from members import ROOT
from sweeping import FAKE, RANGES, THREE, starts, sweep, wait_for  # noqa: F401

from gen_jax.errors import ConfigError, DataError, Preempted, RunError
from gen_jax.runs.run_dir import RunDir
from gen_jax.sweeps.trainer import lock, open_log


@pytest.mark.parametrize("end", ["-9:001", "75:001", "76:001"])
def test_a_worker_that_dies_resumes_in_its_run_directory(sweep, monkeypatch, end):
    monkeypatch.setenv("FAKE_END", end)
    one = sweep(THREE, workers=2, steps=4)
    assert [trial.state.name for trial in one.run()] == ["COMPLETE"] * 3
    assert starts(one) == [1, 5, 1]  # it came one step further each time, and the fifth found all done
    assert [row["step"] for row in RunDir(one.path / "trials/001").rows()] == [1, 2, 3, 4]


BEGIN = """
import sys
from gen_jax.sweeps.definition import definition
from gen_jax.sweeps.sweep import Sweep
spec, folder, *words = sys.argv[1:]
flags = [word for word in words if word.startswith("--config.")]
command = [word for word in words if word not in flags]
Sweep(definition(spec, flags, "grid"), folder, workers=2, command=command, poll=0.01).run()
"""


def test_a_killed_sweep_resumes(sweep, monkeypatch):
    """Its process is killed with two trials half-way, which live on; a lock is left, and a line of the journal torn."""
    again = sweep(workers=2)
    monkeypatch.setenv("FAKE_STEP", "0.2")
    argv = [again.definition.spec, str(again.path), *again.definition.overrides, *FAKE]
    first = subprocess.Popen([sys.executable, "-c", BEGIN, *argv], cwd=ROOT, stderr=subprocess.DEVNULL)
    assert wait_for(again.path / "trials/003/metrics.jsonl")
    first.kill()
    first.wait()
    os.symlink("journal.jsonl", again.path / "journal.jsonl.lock")
    with open(again.path / "journal.jsonl", "a") as journal:
        journal.write('{"op_code":')
    monkeypatch.setenv("FAKE_STEP", "0")
    assert [trial.state.name for trial in again.run()] == ["COMPLETE"] * 9
    assert starts(again)[3] == 2 and 10 <= sum(starts(again)) <= 11
    for run in again.path.glob("trials/*"):
        assert [row["step"] for row in RunDir(run).rows()] == list(range(1, 9))


HANGS = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); open(sys.argv[1], 'w'); time.sleep(100)"


def test_a_process_left_behind_that_hangs_is_killed_on_this_host_alone(tmp_path):
    log, said = tmp_path / "003.log", []
    with open(log, "ab") as file:
        assert lock(file)
        hangs = subprocess.Popen([sys.executable, "-S", "-c", HANGS, str(tmp_path / "on")], stdout=file)
    assert wait_for(tmp_path / "on")
    for left in (["elsewhere", hangs.pid], None):
        with pytest.raises(RunError, match=r"trial 003: still runs on (elsewhere, process [0-9]+|a host that is not)"):
            open_log(log, left, said.append, grace=0.1)
    assert hangs.poll() is None and not said
    open_log(log, [socket.gethostname(), hangs.pid], said.append, grace=0.1).close()
    assert hangs.wait() == -signal.SIGKILL
    assert [line.split(": ")[2].split(",")[0] for line in said] == ["SIGTERM", "SIGKILL"]


def test_sigterm_stops_the_trials_and_the_same_command_resumes(sweep, monkeypatch):
    monkeypatch.setenv("FAKE_STEP", "0.2")
    one = sweep(THREE, workers=2)

    def stop():
        if wait_for(one.path / "trials/001/metrics.jsonl"):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Preempted, match="of 3 trials have ended; the same command continues"):
        one.run()
    assert all(trainer.process.poll() is not None for trainer in one.running)
    monkeypatch.setenv("FAKE_STEP", "0")
    assert len(sweep(THREE, workers=2).run()) == 3
    assert starts(one)[1] == 2


def test_a_trial_that_diverges_fails_and_the_others_go_on(sweep, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_END", "3:001")
    trials = sweep(THREE).run()
    assert [trial.number for trial in trials if trial.state.name == "FAIL"] == [1]
    assert trials[1].user_attrs["reason"] == "the fake ended with 3"
    assert "trial 1: fail the fake ended with 3" in capsys.readouterr().err
    monkeypatch.setenv("FAKE_END", "1")
    with pytest.raises(RunError, match="no trial was completed"):
        sweep(folder="none", trials=2).run()


def test_a_worker_that_never_gets_further_fails(sweep, monkeypatch):
    monkeypatch.setenv("FAKE_END", "-9:000:stuck")
    one = sweep(trials=2)
    trials = one.run()
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE"]
    assert "3 times without a new row" in trials[0].user_attrs["reason"]


def test_a_trial_whose_config_is_wrong_fails_and_the_others_go_on(sweep, monkeypatch):
    """Only the program knows: 64 and 100 rows on 8 devices."""
    monkeypatch.setenv("FAKE_END", "2:000")
    one = sweep(THREE)
    trials = one.run()
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[0].user_attrs["reason"] == "the fake ended with 2"
    assert [trial.state.name for trial in sweep(THREE).run()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert starts(one) == [1] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_where_no_config_is_right_the_sweep_stops_and_begins_anew(sweep, monkeypatch, workers):
    monkeypatch.setenv("FAKE_END", "2")
    one = sweep(workers=workers)
    with pytest.raises(ConfigError, match="trial 0: the fake ended with 2"):
        one.run()
    assert {trial.state.name for trial in one.trials()} == {"FAIL"}
    assert 3 <= len(one.trials()) < 3 + workers
    monkeypatch.setenv("FAKE_END", "")
    corrected = sweep(THREE, workers=workers)
    assert [trial.state.name for trial in corrected.run()] == ["COMPLETE"] * 3
    assert starts(corrected)[:3] == [1] * 3
    monkeypatch.setenv("FAKE_END", "2")
    with pytest.raises(ConfigError, match="trial 0: the fake ended with 2"):
        sweep(folder="short", trials=2).run()


def test_trials_that_were_measured_otherwise_than_the_first_fail(sweep, monkeypatch):
    monkeypatch.setenv("FAKE_BATCH", "16:001")
    trials = sweep(THREE).run()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[1].user_attrs["reason"] == "val/elbo@batch=16 is not alike in trial 0: batch 8, 16"


def test_missing_data_stops_the_sweep_and_the_trial_is_kept(sweep, monkeypatch):
    monkeypatch.setenv("FAKE_END", "5:001")
    with pytest.raises(DataError, match="trial 1: the fake ended with 5"):
        sweep(THREE, workers=2).run()
    monkeypatch.setenv("FAKE_END", "")
    again = sweep(THREE)
    assert [trial.state.name for trial in again.run()] == ["COMPLETE"] * 3
    assert starts(again)[1] == 2


@pytest.mark.parametrize(
    ("goal", "rows"), [("val/elbow", (3, 4, 5)), pytest.param("test/likelyhood", (6,), marks=pytest.mark.slow)]
)
def test_a_misspelt_goal_is_found_at_the_first_row_that_should_have_it(sweep, monkeypatch, goal, rows):
    """Evaluated at 3 and 6; what belongs to `test/` may come at the end, which is 6."""
    monkeypatch.setenv("FAKE_STEP", "0.3")
    one = sweep(THREE.replace("val/elbo", goal), steps=6, flags=("eval_every=3",))
    with pytest.raises(ConfigError, match=f"no metric '{goal}'; (did you mean val/elbo|known: )"):
        one.run()
    assert len(RunDir(one.path / "trials/000").rows()) in rows
    again = sweep(THREE.replace("min", "max"), steps=6, flags=("eval_every=3",))
    assert [trial.state.name for trial in again.run()] == ["COMPLETE"] * 3
    assert again.study.best_trial.number == 0 and starts(again) == [2, 1, 1]
    with pytest.raises(ConfigError, match="goal was 'maximize val/elbo', is now 'minimize val/elbo'"):
        sweep(THREE, steps=6, flags=("eval_every=3",))


def test_asha_stops_what_falls_behind(sweep, monkeypatch):
    monkeypatch.setenv("FAKE_STEP", "0.05")
    one = sweep(RANGES, "asha", steps=27, trials=6, workers=2)
    trials = one.run()
    states = [trial.state.name for trial in trials]
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert all(trial.user_attrs["step"] == 27 for trial in trials if trial.state.name == "COMPLETE")
    judged = [trial.last_step for trial in trials if trial.state.name == "PRUNED"]
    assert set(judged) <= {3, 9}
    assert min(RunDir(run).rows()[-1]["step"] for run in one.path.glob("trials/*")) < 27
    assert starts(one) == [1] * 6


@pytest.mark.slow
def test_asha_finds_the_best_of_the_grid_with_half_the_steps(sweep, monkeypatch, tmp_path):
    """A synthetic loss whose curves cross, 1 / step to a floor set by rate and width; 25 points; 4 of 5 seeds."""
    monkeypatch.setenv("FAKE_STEP", "0.05")
    rates, widths = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), (16, 32, 64, 128, 256)
    body = f"""
    s.minimize("val/elbo")
    s.choice("optim.net.lr", {rates})
    s.choice("model.latent", {widths})
"""
    good, figures = 0, []
    for seed in range(1, 6):
        flags = (f"seed={seed}",)
        best = min(loss(rate, width, 27, str(seed)) for rate in rates for width in widths)
        asha = sweep(body, "asha", folder=f"asha{seed}", steps=27, trials=25, workers=2, flags=flags).run()
        found = min(trial.value for trial in asha if trial.state.name == "COMPLETE") / best
        runs = (tmp_path / f"asha{seed}").glob("trials/*")
        share = sum(RunDir(run).rows()[-1]["step"] for run in runs) / (27 * 25)
        figures.append((round(found, 3), round(share, 3)))
        good += found < 1.05 and share < 0.5
    print(figures)
    assert good >= 4, figures
