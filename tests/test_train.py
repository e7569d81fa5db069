"""The loop: resumed equals uninterrupted, signals, guards, early stop, no recompilation, no host read between logs."""

import functools
import json
import math
import os
import signal

import jax
import numpy as np
import pytest
from members import SMALLEST, smoke
from trainings import LONG, digits

from gen_jax import cli, config
from gen_jax.core.state import Mean
from gen_jax.errors import ConfigError, Interrupted, NonFiniteError, Preempted
from gen_jax.runs import step_dirs
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training.loop import Loop
from gen_jax.training.program import Program

BEST = ("evals.elbo.split=validation", "best.metric=val/loss")


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def signal_at(monkeypatch, where, step, number=signal.SIGTERM):
    """Sends this process a signal when `Program.<where>` is called the `step`-th time."""
    original, calls = getattr(Program, where), []

    def wrapper(self, *args):
        calls.append(args)
        if len(calls) == step:
            os.kill(os.getpid(), number)
        return original(self, *args)

    monkeypatch.setattr(Program, where, wrapper)


LATE = [pytest.param(*case, marks=pytest.mark.slow) for case in (("step", 1), ("step", 12), ("batches", 5))]


@pytest.mark.parametrize(("where", "count"), [("step", 5), pytest.param("batches", 3, marks=pytest.mark.slow), *LATE])
def test_preempted_and_resumes_equals_uninterrupted(tmp_path, monkeypatch, where, count):
    whole = train(digits(*LONG), tmp_path / "whole")
    with monkeypatch.context() as patch:
        signal_at(patch, where, count)
        with pytest.raises(Preempted, match="stopped"):
            train(digits(*LONG), tmp_path / "cut")
    assert RunDir(tmp_path / "cut").status()["state"] == "preempted"
    resumed = train(digits(*LONG), tmp_path / "cut")
    same(whole, resumed)
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert RunDir(tmp_path / "cut").status()["state"] == "done"
    train(digits(*LONG), tmp_path / "cut")  # a third time: nothing is left to do
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


# of an evaluation in the middle of the run, and of the last one
@pytest.mark.parametrize("number", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_an_evaluator_that_raises_costs_nothing(tmp_path, monkeypatch, number):
    """`save_every` is 0: the step is saved before its evaluation, and the same command evaluates it again."""
    flags = (*LONG, "save_every=0", "keep=9")
    whole = train(digits(*flags), tmp_path / "whole")
    original, calls = Loop._evaluate, []

    def broken(self, state, when):
        calls.append(when)
        if calls.count("always") == number:
            original(self, state, when)  # its pictures and numbers are there, its row is not
            raise KeyError("label")
        return original(self, state, when)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_evaluate", broken)
        with pytest.raises(KeyError, match="label"):
            train(digits(*flags), tmp_path / "cut")
    run = RunDir(tmp_path / "cut")
    assert step_dirs.available(run.checkpoints) == [8, 16, 24][:number]
    assert [run.status()[key] for key in ("state", "step")] == ["failed", 8 * number]
    steps = []
    step = Program.step
    monkeypatch.setattr(Program, "step", lambda self, state, at: steps.append(at) or step(self, state, at))
    same(whole, train(digits(*flags), run.path))
    assert steps == list(range(8 * number, 24, 2))  # none is made twice
    assert run.metrics.read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_an_evaluation_writes_the_state_once(tmp_path, monkeypatch):
    """A step that is the best, evaluated and due to be saved is written once; the next command does nothing."""
    save, saved = Checkpoints.save, []
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, *rest: saved.append(step) or save(self, step, *rest))
    train(digits(*LONG, *BEST), tmp_path / "run")
    assert saved == [6, 8, 12, 16, 18, 24]
    before = (tmp_path / "run/checkpoints/24.sha256.json").stat().st_mtime_ns
    train(digits(*LONG, *BEST), tmp_path / "run")
    assert len(saved) == 6 and (tmp_path / "run/checkpoints/24.sha256.json").stat().st_mtime_ns == before


def test_ctrl_c_saves_too(tmp_path, monkeypatch):
    signal_at(monkeypatch, "step", 2, signal.SIGINT)
    with pytest.raises(Interrupted):
        train(digits(*LONG), tmp_path / "run")
    assert [RunDir(tmp_path / "run").status()[name] for name in ("state", "step")] == ["interrupted", 4]


def test_a_finished_run_is_left_alone(tmp_path):
    train(digits(), tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    train(digits(), tmp_path / "run")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_another_config_in_the_same_workdir_is_refused(tmp_path):
    train(digits(), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"seed was 0, is now 1"):
        train(digits("seed=1"), tmp_path / "run")
    assert int(train(digits("total_steps=12"), tmp_path / "run").step) == 12


def test_a_wrong_config_does_not_claim_the_workdir(tmp_path):
    for wrong, key in (
        ("evals.elbo.split=tset", "config.evals.elbo.split"),
        ("init_from.workdir=/nowhere", "config.init_from.workdir"),
        ("model.image=(8,8,3)", "config.model.image"),
        ("optim.net.freeze=('x',)", "config.optim.net.freeze"),
    ):
        with pytest.raises(ConfigError, match=f"^{key}: "):
            train(digits(wrong), tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("transformer", {"model.context": 8}, r"config\.model\.context: expected at least 16, as in the data, got 8"),
        ("encoder_decoder", {"model.vocab": 400}, r"config\.model\.end: expected \d+, as in the data, got 399"),
        ("encoder_decoder", {"data": {"source": "markov"}}, r"config\.data: expected pairs of texts"),
        ("encoder_decoder", {"data.longest": 60}, r"config\.data\.context: expected at least \d+, the longest pair"),
        ("wavenet", {"evals.markov.tuned_on": "val"}, r"config\.evals\.markov\.split: .* found 'val'"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(model, change, message):
    section = config.to_dict(smoke(SMALLEST[model]))
    if model == "encoder_decoder":
        section["model"]["end"] = None
    for key, value in change.items():
        *path, last = key.split(".")
        functools.reduce(dict.__getitem__, path, section)[last] = value
    with pytest.raises(ConfigError, match=message):
        Program(config.resolve(section)).check()


def test_a_workdir_in_use_is_refused(tmp_path):
    RunDir(tmp_path / "run").create(config.to_dict(digits()))
    with RunDir(tmp_path / "run").locked(), pytest.raises(ConfigError, match="another process is training"):
        train(digits(), tmp_path / "run")


def test_a_mistyped_best_metric_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.best\.metric: expected one of .*test/elbo,.* got 'test/elbow'"):
        train(digits("best.metric=test/elbow"), tmp_path / "run")


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    flags = ("optim.net.name=sgd", "optim.net.lr=3e38", "optim.net.warmup=0", "optim.net.schedule=constant")
    with pytest.raises(NonFiniteError, match="at step"):
        train(digits(*flags, "steps_per_call=1", "log_every=1", "save_every=1"), tmp_path / "run")
    assert not list((tmp_path / "run/checkpoints").glob("*/"))


@pytest.mark.slow
def test_the_profiler_traces_up_to_the_last_step(tmp_path):
    train(digits("profile.start=5", "profile.steps=3"), tmp_path / "run")
    assert list((tmp_path / "run/plugins").rglob("*.xplane.pb"))


def test_the_guard_names_the_step(tmp_path):
    flags = ("optim.net.name=sgd", "optim.net.lr=1e20", "optim.net.warmup=0", "optim.net.schedule=constant")
    with pytest.raises(NonFiniteError) as alone:
        train(digits(*flags, "steps_per_call=1", "log_every=1"), tmp_path / "alone")
    with pytest.raises(NonFiniteError) as together:
        train(digits(*flags, "steps_per_call=4", "log_every=8"), tmp_path / "together")
    assert str(alone.value).split("; ")[:-1] == str(together.value).split("; ")[:-1]
    assert "at step 2" in str(alone.value)
    assert RunDir(tmp_path / "alone").status()["state"] == "failed"


def test_an_alarm_since_the_last_row_is_one_warning(tmp_path, monkeypatch, capsys):
    original = Program.step

    def step(self, state, step):
        state, metrics = original(self, state, step)
        return state, metrics | {"alarm_test": Mean(np.float32([step == 5]), np.ones(1, np.float32))}

    monkeypatch.setattr(Program, "step", step)
    train(digits("total_steps=12", "log_every=4", "eval_every=0", "save_every=0", "steps_per_call=1"), tmp_path / "run")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "alarm" in line and "warning" in line]
    assert warnings == ["warning: step 8: train/alarm_test in 25% of the steps since the last row"]
    assert [row.get("train/alarm_test") for row in RunDir(tmp_path / "run").rows()] == [0, 0.25, 0]


def test_stops_early_and_keeps_the_best(tmp_path):
    flags = ("total_steps=40", "eval_every=4", "save_every=0", *BEST, "best.patience=2")
    experiment = digits(*flags, "optim.net.lr=1e-9", "optim.net.warmup=0", "best.mode=max")
    state = train(experiment, tmp_path / "run")
    rows = RunDir(tmp_path / "run").rows()
    values = {row["step"]: row["val/loss"] for row in rows if "val/loss" in row}
    assert int(state.step) < 40
    best = max(values, key=values.get)
    assert int(state.step) - best == 8
    assert (tmp_path / f"run/checkpoints/{best}").is_dir()
    assert "test/log_likelihood" in rows[-1]  # what runs at the end runs at an early end too


def test_the_best_outlives_keep_and_is_what_step_best_evaluates(tmp_path, capsys):
    flags = ("total_steps=40", "eval_every=4", "save_every=2", "keep=1", *BEST, "best.patience=3")
    experiment = digits(*flags, "optim.net.lr=1e-9", "optim.net.warmup=0", "best.mode=max")
    state = train(experiment, tmp_path / "run")
    values = {row["step"]: row["val/loss"] for row in RunDir(tmp_path / "run").rows() if "val/loss" in row}
    best = max(values, key=values.get)
    assert best < int(state.step) < 40
    kept = {int(path.name) for path in (tmp_path / "run/checkpoints").glob("*/")}
    assert kept == {best, int(state.step)}
    cli.main(["eval", f"--workdir={tmp_path / 'run'}", "--step=best"])
    said = capsys.readouterr().out
    assert f"step {best}\n" in said
    rows = [json.loads(line) for line in (tmp_path / "run/eval/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == best and rows[-1]["val/loss"] == pytest.approx(values[best], rel=1e-6)
    same(train(experiment, tmp_path / "run"), state)  # it stays stopped


def test_what_is_not_a_number_is_never_the_best(tmp_path, monkeypatch):
    evaluate, seen = Loop._evaluate, []

    def first_is_nan(self, state, when):
        scalars = evaluate(self, state, when)
        seen.append(self.step)
        return scalars | ({"val/loss": math.nan} if len(seen) == 1 and "val/loss" in scalars else {})

    monkeypatch.setattr(Loop, "_evaluate", first_is_nan)
    train(digits("total_steps=8", "eval_every=4", "save_every=4", *BEST), tmp_path / "run")
    assert [seen[0], step_dirs.read_manifest(RunDir(tmp_path / "run").checkpoints, 8)["best_step"]] == [4, 8]
