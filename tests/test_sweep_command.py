"""What a sweep leaves to read, and what it refuses."""

import csv
import json
import os
import signal
import threading

import numpy as np
import pytest
from sweeping import GRID, THREE, config_with, starts, sweep, wait_for  # noqa: F401
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from test_cli import fails

from gen_jax import cli
from gen_jax.errors import ConfigError
from gen_jax.runs.run_dir import RunDir
from gen_jax.sweeps import pictures, report
from gen_jax.sweeps.definition import _points, definition
from gen_jax.sweeps.sweep import Sweep
from gen_jax.sweeps.trainer import gpu_of


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
    hparams = EventAccumulator(os.fspath(done.path)).Reload().PluginTagToContent("hparams")
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
def test_eight_trials_of_digits_with_a_worker_killed(tmp_path, monkeypatch):
    """Two real trainers at a time; the third is killed -9 behind its first checkpoint. TensorBoard lists all 8."""
    monkeypatch.setenv("XLA_FLAGS", "")
    periods = ("total_steps=1000", "eval_every=500", "log_every=100", "save_every=200", "mesh.data=1")
    made = definition("experiments/vae/digits.py:smoke", [f"--config.{flag}" for flag in periods], "random")
    sweep = Sweep(made, tmp_path / "d", trials=8, workers=2)
    killed = []

    def kill():
        if not wait_for(tmp_path / "d/trials/002/checkpoints/200.sha256.json", seconds=600):
            return
        for trainer in list(sweep.running):
            if trainer.run_dir.path.name == "002":
                os.kill(trainer.process.pid, signal.SIGKILL)
                killed.append(trainer.run_dir.status()["state"])

    threading.Thread(target=kill, daemon=True).start()
    assert [trial.state.name for trial in sweep.run()] == ["COMPLETE"] * 8
    assert killed == ["running"]
    runs = [RunDir(path) for path in sorted((tmp_path / "d/trials").iterdir())]
    begun = [len(json.loads(run.manifest_file.read_text())["starts"]) for run in runs]
    assert begun == [1] * 2 + [2] + [1] * 5
    columns = []
    for run in runs:
        assert [row["step"] for row in run.rows()] == list(range(100, 1001, 100))
        events = EventAccumulator(str(run.events)).Reload()
        contents = events.PluginTagToContent("hparams")
        start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
        columns.append(start.hparams["optim.net.lr"].number_value)
        assert "val/elbo" in events.PluginTagToContent("scalars")
    assert columns == pytest.approx([trial.params["optim.net.lr"] for trial in sweep.trials()])
