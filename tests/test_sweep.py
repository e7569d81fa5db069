"""Sweeps: every trial ends once, whatever dies; what is wrong is said before the first; the files say what was found.

Most of these train with `fake_trainer.py`, which costs nothing; the rest of a sweep is the real one.
"""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from fake_trainer import loss
from members import ROOT
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from test_cli import fails

from gen_jax import cli
from gen_jax import config as configs
from gen_jax.errors import ConfigError, DataError, Preempted, RunError
from gen_jax.runs import status
from gen_jax.runs.run_dir import RunDir
from gen_jax.sweeps import pictures, report, space
from gen_jax.sweeps.definition import Definition, Search, _points, definition
from gen_jax.sweeps.sweep import Sweep
from gen_jax.sweeps.trainer import gpu_of, lock, open_log

FAKE = (sys.executable, "-S", str(ROOT / "tests/fake_trainer.py"))
GRID = """
    s.minimize("val/elbo")
    s.choice("optim.net.lr", (1e-4, 1e-3, 1e-2))
    s.choice("model.latent", (16, 32, 64))
"""
THREE = """
    s.minimize("val/elbo")
    s.choice("model.latent", (16, 32, 64))
"""
RANGES = """
    s.minimize("val/elbo")
    s.log_uniform("optim.net.lr", 1e-5, 1e-1)
    s.choice("model.latent", (16, 32, 64, 128, 256))
"""


def config_with(folder: Path, body: str) -> str:
    """A config file: the digits' smoke config, and a sweep of these lines."""
    path = folder / "config.py"
    start = f"import runpy\nglobals().update(runpy.run_path({str(ROOT / 'experiments/vae/digits.py')!r}))\n"
    path.write_text(f"{start}\ndef sweep(s):{body}\n")
    return f"{path}:smoke"


@pytest.fixture
def sweep(tmp_path):
    """Makes a sweep of fake trials of 8 steps."""

    def make(body=GRID, search: Search = "grid", folder="d", steps=8, flags=(), **options):
        steps_flags = [
            f"--config.{key}" for key in (f"total_steps={steps}", "eval_every=1", "steps_per_call=1", *flags)
        ]
        made = definition(config_with(tmp_path, body), steps_flags, search)
        return Sweep(made, tmp_path / folder, command=FAKE, poll=0.01, **options)

    return make


def starts(sweep: Sweep) -> list[int]:
    """How often each trial was started."""
    return [len(file.read_text().split()) for file in sorted(sweep.path.glob("trials/*/starts"))]


def wait_for(path: Path, seconds: float = 120) -> bool:
    """Until a file is there; False: it did not come."""
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.exists()


def test_a_grid_with_conditions_is_walked_whole(tmp_path):
    def define(s):
        s.maximize("val/elbo")
        if s.choice("a", ("x", (1, 2))) == "x":
            s.integer("b", 0, 4, step=2)
        s.choice("c", (True, 1))
        s.set("d", 0)

    points = [point for point, _ in space.grid(define)]
    assert [tuple(point.params.values()) for point in points] == [
        *(("x", b, c) for b in (0, 2, 4) for c in (True, 1)),
        *(((1, 2), c) for c in (True, 1)),
    ]
    assert points[-1].flags() == ["--config.a=(1, 2)", "--config.c=1", "--config.d=0"]
    study = optuna.create_study()
    values = [values for _, values in space.grid(define)]
    for value in values:
        study.enqueue_trial(value)
    assert [space.ask(define, study.ask()) for _ in values] == points


def test_a_grid_of_two_workers_ends_each_trial_once_and_finds_the_best(sweep, tmp_path):
    one = sweep(workers=2)
    trials = one.run()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 9
    assert starts(one) == [1] * 9
    assert len({tuple(trial.user_attrs["params"].items()) for trial in trials}) == 9
    best = min(trials, key=lambda trial: trial.value)
    assert best.user_attrs["params"] == {"optim.net.lr": 1e-3, "model.latent": 64}
    assert best.value == pytest.approx(1 + 2 / 8)
    assert not list(tmp_path.glob("d/journal.jsonl.lock*"))


def test_draws_do_not_depend_on_workers_or_on_stops(sweep):
    whole = sweep(RANGES, "random", "one", trials=4).run()
    sweep(RANGES, "random", "two", trials=2, workers=2).run()
    again = sweep(RANGES, "random", "two", trials=4)
    assert [trial.params for trial in again.run()] == [trial.params for trial in whole]
    assert starts(again) == [1] * 4
    other = sweep(RANGES, "random", "three", trials=2, flags=("seed=1",)).run()
    assert other[0].params != whole[0].params


@pytest.mark.parametrize(("body", "search"), [(GRID, "grid"), (GRID, "random"), (RANGES, "random")])
def test_a_trial_by_itself_is_the_one_that_the_sweep_would_train(body, search, sweep):
    whole = sweep(body, search, "one", trials=4).run()
    two = sweep(body, search, "two", trials=4)
    two.begin()
    drawn = [two.definition.drawn(i) for i in range(4)]
    assert [point.params for point in drawn] == [trial.user_attrs["params"] for trial in whole]
    for number in (3, 0):
        subprocess.run(two.trial_command(number), check=True)
        run = two.run_dir(number)
        run.config_file.write_text(json.dumps(configs.to_dict(two.definition.load(drawn[number]))))
        status.write(run.status_file, status.facts("done", 8))
    assert [trial.value for trial in two.run()] == [trial.value for trial in whole]
    assert starts(two) == [1] * 4


def test_a_trial_that_depends_on_others_is_not_trained_by_itself(sweep):
    with pytest.raises(ConfigError, match="--search: expected grid or random beside --trial, got tpe"):
        sweep(search="tpe").trial_command(0)
    with pytest.raises(ConfigError, match="--trial: expected 0 to 8, got 9"):
        sweep().trial_command(9)


def test_random_and_asha_try_no_point_of_a_grid_twice(sweep):
    asha, random = (sweep(search=search, flags=("eval_every=2",)) for search in ("asha", "random"))
    assert asha.total == random.total == 9
    assert asha.definition.grid == random.definition.grid != sweep().definition.grid
    assert sorted(map(str, asha.definition.grid)) == sorted(map(str, sweep().definition.grid))


def test_tpe_comes_closer_than_chance(tmp_path):
    """40 points for each of 8 seeds; a tenth of the distance to the best, which draws of another seed never have."""

    def distances(search: Search, seeds: range) -> list[float]:
        return [
            _distance(definition(config_with(tmp_path, RANGES), [f"--config.seed={seed}"], search)) for seed in seeds
        ]

    tpe, chance = np.median(distances("tpe", range(8))), np.median(distances("random", range(8)))
    assert tpe < chance / 10 < np.median(distances("random", range(8, 16)))


def _distance(made: Definition) -> float:
    """To the least loss, of 40 trials that are not trained."""
    study = optuna.create_study()
    for number in range(40):
        study.sampler = made.sampler(number)
        trial = study.ask()
        params = space.ask(made.define, trial).params
        study.tell(trial, loss(params["optim.net.lr"], params["model.latent"], 8))
    return study.best_value - (1 + 2 / 8)


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


@pytest.mark.parametrize(("goal", "rows"), [("val/elbow", (3, 4, 5)), ("test/likelyhood", (6,))])
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


def test_results_table_and_pictures(sweep, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_END", "3:000")
    one = sweep(THREE)
    trials = one.run()
    report.write_csv(one.definition, trials, tmp_path / "results.csv")
    with open(tmp_path / "results.csv") as file:
        rows = list(csv.DictReader(file))
    columns = ["trial", "state", "step", "val/elbo@batch=8", "model.latent", "reason"]
    assert list(rows[0]) == columns
    assert [row["state"] for row in rows] == ["failed", "complete", "complete"]
    assert float(rows[1]["val/elbo@batch=8"]) == trials[1].value
    lines = [line.split() for line in report.table(one.definition, trials).splitlines()]
    assert lines[0] == columns
    assert lines[1] == ["2", "complete", "8", "1.25", "64"]
    assert lines[2] == ["1", "complete", "8", "1.45", "32"]
    assert lines[3][:4] == ["0", "failed", "1", "16"]
    assert all(path.stat().st_size > 1000 for path in report.draw(one.definition, trials, tmp_path))


def test_the_command_of_a_finished_sweep_writes_and_prints_it_again(sweep, capsys):
    done = sweep(THREE)
    done.run()
    flags = ("--search=grid", *done.definition.overrides)
    cli.main(["sweep", f"--config={done.definition.spec}", f"--workdir={done.path}", *flags])
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == ["2", "complete", "8", "1.25", "64"]
    for name in ("results.csv", "parameters.png", "best.png"):
        assert name in out and (done.path / name).exists()
    assert f"tensorboard --logdir={done.path}" in out
    assert starts(done) == [1] * 3
    hparams = EventAccumulator(os.fspath(done.path / "tb")).Reload().PluginTagToContent("hparams")
    columns = metadata.parse_experiment_plugin_data(hparams[metadata.EXPERIMENT_TAG])
    assert [info.name for info in columns.hparam_infos] == ["model.latent"]
    assert [info.name.tag for info in columns.metric_infos] == ["val/elbo@batch=8"]


def test_pictures_of_numbers_groups_and_gaps():
    columns = {"lr": [1e-4, 1e-3, None], "net": ["mlp", (1, 2), None], "bf16": [True, False, True], "n": [1, 2, 3]}
    values = np.array([1.0, 2.0, 0.5])
    picture = pictures.responses(columns, values, "val/elbo")
    assert picture.std() > 1
    one, two = (pictures.responses({"net": names}, values[:2], "") for names in (["mlp", "conv"], ["a", "b"]))
    assert one.shape == two.shape and (one != two).any(), "groups without their names"
    up, down = (pictures.best_so_far(np.arange(3), values, "val/elbo", maximize=up) for up in (True, False))
    assert up.shape == down.shape and (up != down).any()


def test_an_axis_is_logarithmic_where_the_sweep_drew_logarithms():
    columns, values = {"lr": [1e-3, 2e-3, 4e-3]}, np.array([1.0, 2.0, 0.5])
    linear, log = (pictures.responses(columns, values, "x", frozenset(logs)) for logs in ((), ("lr",)))
    assert linear.shape == log.shape and (linear != log).any()

    def define(s):
        s.maximize("val/elbo")
        s.log_uniform("optim.net.lr", 1e-4, 1e-2)
        s.uniform("model.beta", 0, 1)

    tried = _points(define, "tpe", 0)[1]
    assert report._logs(tried) == {"optim.net.lr"}


def test_workers_share_the_gpus(monkeypatch):
    fraction = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    monkeypatch.delenv(fraction, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [gpu_of(slot, 2) for slot in range(2)] == [{"CUDA_VISIBLE_DEVICES": name} for name in "25"]
    five = [gpu_of(slot, 5) for slot in range(5)]
    assert [worker["CUDA_VISIBLE_DEVICES"] for worker in five] == ["2", "5", "2", "5", "2"]
    assert [float(worker[fraction]) for worker in five] == [0.3, 0.45, 0.3, 0.45, 0.3]
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.2")
    assert gpu_of(4, 5) == {"CUDA_VISIBLE_DEVICES": "2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_of(0, 1) == {}


@pytest.mark.parametrize(
    ("body", "flags", "says"),
    [
        ('s.maximize("a")\n    s.choice("optim.net.lrr", (1, 2))', (), "config.optim.net.lrr: unknown key; did you"),
        (
            's.maximize("a")\n    s.uniform("optim.net.lr", 0, 1)',
            (),
            "optim.net.lr: expected choice or integer in a grid",
        ),
        ('s.maximize("a")\n    s.choice("model.latent", (4, 0))', (), "config.model.latent: expected"),
        ('s.choice("model.latent", (4, 8))', (), "expected one s.maximize(metric) or s.minimize(metric), found 0"),
        ('s.maximize(str(s.choice("model.latent", (4, 8))))', (), "expected one goal, found 4 and 8"),
        ('s.maximize("a")\n    s.choice("seed", (1, 2))\n    s.set("seed", 3)', (), "seed: expected once, found twice"),
        ('s.maximize("a")\n    s.chioce("seed", (1, 2))', (), "has no attribute 'chioce'"),
        ('s.maximize("a")\n    s.log_uniform("optim.net.lr", 1, 0)', ("--search=tpe",), "sweep: ValueError: "),
        ('s.maximize("a")\n    s.choice("seed", (1, 2))', ("--search=asha",), "config.eval_every: expected a period"),
        (
            's.maximize("a")\n    s.choice("seed", (1, 2))',
            ("--config.seed=3",),
            "--config.seed: expected no value beside",
        ),
        ('s.maximize("a")\n    s.choice("seed", (1, 2))', ("--workers=0",), "--workers: expected at least 1, got 0"),
        ('s.maximize("a")\n    s.choice("seed", (1, 2))', ("--trials=0",), "--trials: expected at least 1, got 0"),
        ('s.maximize("a")\n    s.choice("seed", (1, 2))', ("--search=all",), "invalid choice: 'all'"),
        ('s.maximize("a")\n    s.integer("seed", 1, 2_000)', (), "expected a grid of at most 1000 points"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(body, flags, says, capsys, tmp_path):
    spec = config_with(tmp_path, f"\n    {body}")
    flags = ("--search=grid", *flags)
    assert says in fails(capsys, 2, "sweep", f"--config={spec}", f"--workdir={tmp_path / 'd'}", *flags)
    assert not (tmp_path / "d").exists()


def test_a_config_without_a_sweep_is_refused(capsys, tmp_path):
    argv = ("sweep", "--config=experiments/vae/mnist.py", f"--workdir={tmp_path / 'd'}")
    assert "expected a function sweep(s) beside get_config" in fails(capsys, 2, *argv)


def test_another_sweep_and_another_thing_are_refused(sweep, tmp_path):
    one = sweep(trials=1)
    one.run()
    before = {path: path.read_bytes() for path in one.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="holds another sweep: search was 'grid', is now 'random'"):
        sweep(search="random")
    with pytest.raises(
        ConfigError, match=r"sweep\(s\) says something else of model.latent; config.seed was 0, is now 1"
    ):
        sweep(GRID.replace("64", "128"), flags=("seed=1",))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="not empty and holds no sweep"):
        sweep(folder="thesis")
    assert before == {path: path.read_bytes() for path in one.path.rglob("*") if path.is_file()}
    sweep(GRID + "    # a remark is no other sweep", trials=1)


@pytest.mark.parametrize(
    ("search", "body", "edits", "key"),
    [
        ("grid", 's.choice("model.latent", L)', ("L = (16,)", "L = (64, 16)"), "model.latent"),
        ("tpe", 's.choice("model.latent", L)', ("L = (16,)", "L = (64, 16)"), "model.latent"),
        ("tpe", 's.uniform("optim.net.lr", 1e-4, L)', ("L = 1e-3", "L = 2e-3"), "optim.net.lr"),
        ("random", 's.set("batch_size", L)\n    s.uniform("optim.net.lr", 0, 1)', ("L = 8", "L = 16"), "batch_size"),
        ("tpe", "s.choice(L, (2, 4))", ('L = "seed"', 'L = "log_every"'), "seed, log_every"),
    ],
)
def test_what_a_sweep_is_does_not_depend_on_its_words(tmp_path, search, body, edits, key):
    def sweep(constant, remark=""):
        spec = config_with(tmp_path, f"{remark}\n    s.minimize('val/elbo')\n    {body}")
        with open(spec.removesuffix(":smoke"), "a") as file:
            file.write(constant)
        return Sweep(definition(spec, [], search), tmp_path / "d")

    one = sweep(edits[0])
    one.begin()
    assert sweep(edits[0], "\n    'A docstring.'").definition.identity() == json.loads(
        (one.path / "sweep.json").read_text()
    )
    with pytest.raises(ConfigError, match=rf"sweep\(s\) says something else of {key}$"):
        sweep(edits[1])


@pytest.mark.parametrize("text", ["", "[1]", "[" * 10**5])
def test_a_damaged_sweep_is_one_line(sweep, tmp_path, text):
    one = sweep(trials=1)
    one.begin()
    (one.path / "sweep.json").write_text(text)
    with pytest.raises(ConfigError, match=r"workdir: .*sweep\.json is damaged: "):
        sweep(trials=1)


def test_one_folder_has_one_sweep_at_a_time(sweep):
    one = sweep(trials=1)
    with one._opened(), pytest.raises(ConfigError, match="another sweep is running"):
        sweep(trials=1).run()


@pytest.mark.slow
def test_sixteen_trials_of_digits_with_a_worker_killed(tmp_path, monkeypatch):
    """Two real trainers at a time; the sixth is killed -9 behind its first checkpoint. TensorBoard lists all 16."""
    monkeypatch.setenv("XLA_FLAGS", "")
    periods = ("total_steps=1000", "eval_every=500", "log_every=100", "save_every=200", "mesh.data=1")
    made = definition("experiments/vae/digits.py:smoke", [f"--config.{flag}" for flag in periods], "random")
    sweep = Sweep(made, tmp_path / "d", workers=2)
    killed = []

    def kill():
        if not wait_for(tmp_path / "d/trials/005/checkpoints/200.sha256.json", seconds=600):
            return
        for trainer in list(sweep.running):
            if trainer.run_dir.path.name == "005":
                os.kill(trainer.process.pid, signal.SIGKILL)
                killed.append(trainer.run_dir.status()["state"])

    threading.Thread(target=kill, daemon=True).start()
    assert [trial.state.name for trial in sweep.run()] == ["COMPLETE"] * 16
    assert killed == ["running"]
    runs = [RunDir(path) for path in sorted((tmp_path / "d/trials").iterdir())]
    begun = [len(json.loads(run.manifest_file.read_text())["starts"]) for run in runs]
    assert begun == [1] * 5 + [2] + [1] * 10
    columns = []
    for run in runs:
        assert [row["step"] for row in run.rows()] == list(range(100, 1001, 100))
        events = EventAccumulator(str(run.tb)).Reload()
        contents = events.PluginTagToContent("hparams")
        start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
        columns.append(start.hparams["optim.net.lr"].number_value)
        assert "val/elbo" in events.PluginTagToContent("scalars")
    assert columns == pytest.approx([trial.params["optim.net.lr"] for trial in sweep.trials()])
