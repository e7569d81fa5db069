"""A model, or a new kind of data with its model, is files of its own: nothing else changes."""

import dataclasses

import jax
import numpy as np
import pytest
import test_contract
from pages import PAGES, blocks
from test_contract import *  # noqa: F403 - the whole contract, of the models below

from gen_jax import cli, config
from gen_jax.errors import ConfigError
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training.program import Program

DIFFUSION = '''"""Denoises vectors, and draws them by Euler's steps along the noise level."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.core import ops, sampling
from gen_jax.core.gradients import Terms
from gen_jax.core.state import Mean
from gen_jax.models.base import LossModel, ModelConfig, Stepped
from gen_jax.settings import Positive, PositiveFloat


class Config(ModelConfig):
    shape: Positive
    width: Positive = 16

    def check_data(self, info):
        info.require_kind("vector")
        info.require_equal("shape", self.shape, info.shape[0])


class Sampling(sampling.Sampling):
    steps: Positive = 6
    """Calls of the network."""
    largest: PositiveFloat = 2.0
    """The noise level of the first step."""


class Denoiser(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, level):  # [B, D], [B] -> [B, D]
        inputs = jnp.concatenate([x, jnp.log(level)[:, None]], axis=1)
        return nn.Dense(x.shape[1])(nn.tanh(nn.Dense(self.width)(inputs)))


@dataclasses.dataclass(frozen=True)
class Diffusion(LossModel, Stepped):
    shape: int

    def init_variables(self, rng, batch):
        return self.network.init(rng, batch["vector"][:1], jnp.ones(1))

    def init(self, rng, batch):
        return dataclasses.replace(super().init(rng, batch), extra={"slow_error": jnp.zeros(())})

    def terms(self, variables, batch, rng, *, step, train):
        error = self.error(variables, batch["vector"], rng)  # [B]
        scale = 0.1 + variables["extra"]["slow_error"]
        return Terms({"loss": Mean.of(error / scale), "error": Mean.of(error)})

    def train_step(self, state, batch, rng):
        after, means = super().train_step(state, batch, rng)
        error = means["error"].total / means["error"].weight
        return dataclasses.replace(after, extra={"slow_error": 0.5 * (state.extra["slow_error"] + error)}), means

    def error(self, variables, x, rng):
        level_rng, noise_rng = ops.split(rng, 2)
        level = jnp.exp(ops.normal(level_rng, (len(x),)))
        found = self.network.apply(variables, x + level[:, None] * ops.normal(noise_rng, x.shape), level)
        return ((found - x) ** 2).mean(1)

    def sample_steps(self, options):
        return options.steps

    def sample_init(self, state, rng, n, options):
        return options.largest * jax.random.normal(rng, (n, self.shape))

    def sample_step(self, state, x, i, options):
        here, there = (options.largest * (1 - j / options.steps) for j in (i, i + 1))
        clean = self.network.apply(state.nets["net"].averaged, x, jnp.full(len(x), here))
        return clean + there / here * (x - clean)

    def sample_finish(self, state, x, options):
        return x


def from_config(cfg, optimizers):
    return Diffusion(Denoiser(cfg.width), optimizers["net"], cfg.shape)
'''


VECTORS = """from ml_collections import ConfigDict


def get_config(arg):
    c = ConfigDict(dict(total_steps=4, batch_size=16, eval_batch_size=20, log_every=2, eval_every=4, save_every=2))
    c.data = dict(source="gaussians", examples=200)
    c.model_name, c.model, c.optim = MODEL, dict(shape=2), dict(net=dict(lr=1e-2))
    c.evals = dict(mean=dict(type="mean"), modes=dict(type="modes", n=50, sampling=dict(steps=3)))
    c.mesh = dict(data=1)
    return c
"""


CLOUDS = '''"""Clouds of points, of which the mean and the spread are learned; what they are made of is here, too."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.core import losses, sampling
from gen_jax.core.gradients import Terms
from gen_jax.core.state import Mean
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.settings import NonNegative, Positive


class Config(ModelConfig):
    points: Positive

    def check_data(self, info):
        info.require_kind("cloud")
        info.require_equal("points", self.points, info.shape[0])


class Sampling(sampling.Sampling):
    stretch: NonNegative = 1.0
    """Scales the spread of the points."""


class Gaussian(nn.Module):
    @nn.compact
    def __call__(self):
        return self.param("mean", nn.initializers.zeros, (3,)), self.param("log_scale", nn.initializers.zeros, (3,))


@dataclasses.dataclass(frozen=True)
class Clouds(LossModel):
    points: int

    def init_variables(self, rng, batch):
        return self.network.init(rng)

    def terms(self, variables, batch, rng, *, step, train):
        mean, log_scale = self.network.apply(variables)
        return Terms({"loss": Mean.of(-losses.gaussian_log_prob(mean, log_scale, batch["cloud"], event=2))})

    def sample(self, state, rng, n, options):
        mean, log_scale = self.network.apply(state.nets["net"].averaged)
        noise = jax.random.normal(rng, (n, self.points, 3))
        return mean + options.stretch * jnp.exp(log_scale) * noise


def from_config(cfg, optimizers):
    return Clouds(Gaussian(), optimizers["net"], cfg.points)
'''


SOURCE = '''"""Clouds around one place."""

import numpy as np

from gen_jax.core.info import Info
from gen_jax.data.datasets import ExampleSet
from gen_jax.data.source import ExampleSource, cut_arrays


class Config(ExampleSource):
    source: str
    points: int = 5


def load(cfg, seed):
    clouds = np.random.default_rng(0).normal(3, 0.5, (200, cfg.points, 3)).astype(np.float32)
    return ExampleSet(Info("cloud", (cfg.points, 3)), cut_arrays({"train": {"cloud": clouds}}, cfg), seed)
'''


SETS = VECTORS.replace('source="gaussians", examples=200', "source=SOURCE").replace("shape=2", "points=5")


SETS = SETS.replace(', modes=dict(type="modes", n=50, sampling=dict(steps=3))', "")


@pytest.fixture(scope="module", params=["diffusion", "clouds"])
def experiment(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model, text = {"diffusion": (DIFFUSION, VECTORS), "clouds": (CLOUDS, SETS)}[request.param]
    (folder / "source.py").write_text(SOURCE)
    (folder / "model.py").write_text(model)
    text = text.replace("MODEL", repr(f"{folder}/model.py")).replace("SOURCE", repr(f"{folder}/source.py"))
    (folder / "config.py").write_text(text)
    return config.load(f"{folder}/config.py", [])


@pytest.fixture(scope="module")
def program(experiment):
    return Program(experiment)


@pytest.fixture(scope="module")
def workdir(experiment, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    train(experiment, path)
    return path


def test_it_trains_evaluates_and_resumes(experiment, workdir, tmp_path):
    rows = RunDir(workdir).rows()
    assert rows[-1]["step"] == 4 and "test/loss" in rows[-1]
    train(config.replaced(experiment, {"total_steps": 2}), tmp_path / "half")
    train(experiment, tmp_path / "half")
    assert [row["train/loss"] for row in RunDir(tmp_path / "half").rows()] == [row["train/loss"] for row in rows]


def sampled(workdir, *flags):
    cli.main(["sample", f"--workdir={workdir}", "--n=4", "--seed=1", "--overwrite", *flags])
    with np.load(next((workdir / "samples").glob("sample_*_seed1.npz"))) as arrays:
        return arrays["samples"]


def test_it_samples_with_options_of_its_own(experiment, workdir, capsys):
    plain = sampled(workdir)
    assert plain.shape == (4, *Program(experiment).dataset.info.shape)
    for name, field in type(experiment.sampling).model_fields.items():
        assert not np.allclose(sampled(workdir, f"--{name}=3"), plain)
        with pytest.raises(SystemExit):
            cli.main(["sample", f"--workdir={workdir}", "--help"])
        assert field.description in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        sampled(workdir, "--streetch=3")
    assert stop.value.code == 2
    assert "--streetch: the model" in capsys.readouterr().err


def test_it_refuses_other_data(experiment):
    field = "shape" if "shape" in type(experiment.model).model_fields else "points"
    with pytest.raises(ConfigError, match=rf"^config\.model\.{field}: expected \d, as in the data, got 7"):
        Program(config.replaced(experiment, {f"model.{field}": 7}))
    with pytest.raises(ConfigError, match=r"^config\.data: expected (vectors|cloud), as the model reads, found image"):
        Program(config.resolve(config.to_dict(experiment) | {"data": {"source": "digits"}, "evals": {}}))


def test_what_is_not_rows_is_saved_and_replicated(program, state):
    if state.extra is None:
        return
    new, _ = test_contract.run(program, state, 2)
    assert float(new.extra["slow_error"]) > 0
    assert program.shardings.extra["slow_error"].is_fully_replicated


def test_terms_read_what_is_not_rows(program, state):
    if state.extra is None:
        return
    batch = next(iter(program.batches("test")))
    for step in (
        jax.jit(lambda state: program.model.train_step(state, batch, program.train_key)[1]),
        jax.jit(lambda state: program.model.eval_step(state, batch, program.eval_key)),
    ):
        found = [step(dataclasses.replace(state, extra={"slow_error": jax.numpy.float32(x)})) for x in (0, 0.4)]
        (loss, error), (smaller, same) = ([means[name].total for name in ("loss", "error")] for means in found)
        np.testing.assert_allclose(loss, 5 * smaller, rtol=1e-5)
        np.testing.assert_array_equal(error, same)
        np.testing.assert_allclose(loss, error / 0.1, rtol=1e-5)


def test_the_example_of_the_page_is_part_of_the_toy():
    methods = [text.partition("\n")[2] for text in blocks("python", PAGES["extending.md"]) if "extra" in text]
    assert len(methods) == 1 and methods[0] in DIFFUSION


def test_tags_say_how_samples_were_drawn(experiment, workdir):
    tags = [tag for tag in RunDir(workdir).rows()[-1] if "near_share" in tag]
    assert all(tag.endswith(",sampling.steps=3") for tag in tags) and bool(tags) == ("modes" in experiment.evals)
