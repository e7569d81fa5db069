"""The loggers of `config.log.writers`: a CSV file, and Weights & Biases as a fake module."""

import csv
import json
import sys
import types

import numpy as np
import pytest

from gen_jax import config
from gen_jax.errors import ConfigError
from gen_jax.runs import sinks
from gen_jax.runs.log import Writer

TAG = "test/fid@n_real=10,n_fake=20"


def rows(run):
    with open(run / "metrics.csv") as file:
        return list(csv.reader(file))


def test_csv_has_a_line_a_scalar_and_forgets_what_a_resumed_run_repeats(tmp_path):
    for purge, steps, value in ((0, (1, 2, 3), 0.5), (3, (3, 4), 1.5)):
        with Writer(tmp_path, purge, ("jsonl", "csv")) as writer:
            for step in steps:
                writer.write_scalars(step, {"train/loss": value, TAG: np.float32(2)})
                writer.write_perf(step, {"ms": 7})
                writer.end_step(step)
    header, *lines = rows(tmp_path)
    assert header == ["step", "tag", "value"]
    expected = [(1, 0.5), (2, 0.5), (3, 1.5), (4, 1.5)]
    assert [(int(step), float(value)) for step, tag, value in lines if tag == "train/loss"] == expected
    assert [float(value) for _, tag, value in lines if tag == TAG] == [2.0] * 4
    assert [int(step) for step, tag, _ in lines if tag == "wall/ms"] == [1, 2, 3, 4]
    assert not list(tmp_path.glob("events.*"))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5  # the run truncates it, not the writer


class FakeRun:
    def __init__(self, **options):
        self.options, self.logged, self.finished, self.config = options, [], False, self
        self.hparams = {}

    def update(self, hparams, allow_val_change):
        self.hparams |= hparams

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A module with what `Wandb` calls; `runs` are those that it started."""
    module = types.ModuleType("wandb")
    runs = []

    def init(**options):
        runs.append(FakeRun(**options))
        return runs[-1]

    fakes = {"init": init, "runs": runs, "Html": str, "Image": lambda image: np.asarray(image)}
    fakes["Histogram"] = lambda np_histogram: np_histogram
    vars(module).update(fakes)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_a_run_with_name_id_config_scalars_and_pictures(wandb, tmp_path):
    run = tmp_path / "vae_digits"
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({"run": "abc", "starts": []}))
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    with Writer(run, 0, ("jsonl", "tensorboard", "wandb")) as writer:
        writer.write_hparams({"model": {"width": 64}})
        writer.write_scalars(10, {"train/loss": np.float32(0.5)})
        writer.write_images(10, {"test/samples": image})
        writer.write_texts(10, {"text": "a < b"})
        writer.write_histograms(10, {"w": [0.0, 1.0]}, {"w": 2})
        writer.end_step(10)
    (started,) = wandb.runs
    assert started.options["name"] == "vae_digits" and started.options["project"] == "gen_jax"
    assert started.options["id"] == "abc" and started.options["resume"] == "allow"
    assert started.hparams == {"model.width": 64} and started.finished
    (_, scalars), (_, images), (_, texts), (_, histograms) = started.logged
    assert {step for step, _ in started.logged} == {10}
    assert scalars == {"train/loss": 0.5} and texts == {"text": "<pre>a &lt; b</pre>"}
    np.testing.assert_array_equal(images["test/samples"][0], image)
    assert histograms["w"][0].tolist() == [1, 1]
    assert list(run.glob("events.*"))


def test_wandb_that_is_not_installed_is_refused_with_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"config\.log\.writers: wandb: not installed, run: pip install wandb"):
        Writer(tmp_path, 0, ("jsonl", "wandb"))


@pytest.mark.parametrize("writers", ["('csv',)", "('jsonl','csv','csv')", "('jsonl','mlflow')"])
def test_a_config_names_known_writers_once_and_jsonl(writers):
    with pytest.raises(ConfigError, match=r"config\.log\.writers"):
        config.load("vae/digits", [f"--config.log.writers={writers}"])


def test_every_writer_of_a_config_is_a_sink():
    known = config.Log(writers=("jsonl", *sinks.SINKS)).writers
    assert known == ("jsonl", "tensorboard", "csv", "wandb")
