"""The README is short, and its model and those of docs/extending.md do what they say, byte for byte."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pages import PAGES, README, blocks

import gen_jax.evaluators
import gen_jax.models
from gen_jax import config, data
from gen_jax.core.gradients import Optimizer
from gen_jax.data import sources
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 160
    assert max(map(len, README.splitlines())) <= 120


def install(text, package, name, tmp_path, monkeypatch):
    """Puts a module where modules of `package` are looked for; gives its lines of code."""
    folder = tmp_path / package.__name__
    folder.mkdir()
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
    return len([line for line in text.splitlines() if line.strip()])


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The README's config file, with its model where models are looked for, and the model's lines."""
    model = next(block for block in blocks("python", README) if "class Config(ModelConfig)" in block)
    file = next(block for block in blocks("python", README) if "def get_config" in block)
    (tmp_path / "digits_belief.py").write_text(file)
    lines = install(model, gen_jax.models, "sigmoid_belief", tmp_path, monkeypatch)
    yield tmp_path / "digits_belief.py", lines
    sys.modules.pop("gen_jax.models.sigmoid_belief", None)
    vars(gen_jax.models).pop("sigmoid_belief", None)


def test_the_example_model_has_40_lines_and_learns(example, workdir):
    file, lines = example
    assert lines <= 40
    loaded = config.load(str(file), ["--config.mesh.data=1", "--config.total_steps=60", "--config.log_every=20"])
    train(loaded, workdir)
    run = RunDir(workdir)
    losses = [row["train/loss"] for row in run.rows()]
    assert losses[-1] < losses[0] - 1
    assert run.rows()[-1]["test/log_prob"] == -run.rows()[-1]["test/loss"]
    assert (run.samples / "test_samples_00000060.png").exists()


def test_the_example_model_has_the_likelihood_that_it_says(example):
    """The probabilities of all 16 images of 2x2 bits add up to 1: no pixel sees itself or a later one."""
    module = config.model_module("sigmoid_belief")
    rng = np.random.default_rng(0)
    variables = {"params": {"kernel": rng.normal(size=(4, 4)), "bias": rng.normal(size=4)}}
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
    model = module.from_config(module.Config(image=(2, 2, 1)), {"net": Optimizer(optax.identity())})
    bits = np.array([[i >> k & 1 for k in range(4)] for i in range(16)], np.uint8).reshape(16, 2, 2, 1)
    batch = {"image": jnp.asarray(255 * bits)}
    terms = model.terms(variables, batch, jax.random.key(0), step=jnp.zeros((), jnp.int32), train=False)
    np.testing.assert_allclose(np.exp(terms.means["log_prob"].total).sum(), 1, rtol=1e-5)


@pytest.fixture
def extensions(tmp_path, monkeypatch):
    """The evaluator, source and model of docs/extending.md where such are looked for; their lines."""
    texts = [text for text in blocks("python", PAGES["extending.md"]) if text.startswith('"""')]  # whole files
    places = [(gen_jax.evaluators, "pixel_error"), (sources, "moons"), (gen_jax.models, "independent_pixels")]
    yield [install(text, *place, tmp_path, monkeypatch) for text, place in zip(texts, places, strict=True)]
    for package, name in places:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


def test_an_own_evaluator_gives_the_mean_error(extensions, workdir):
    assert max(extensions) <= 28
    c = config.to_dict(config.load("experiments/vae/digits.py:smoke", ["--config.mesh.data=1"]))
    train(c | {"evals": {"error": {"type": "pixel_error"}}}, workdir)
    assert 0 < RunDir(workdir).rows()[-1]["test/pixel_error"] < 255


def test_an_own_source_gives_points_on_two_moons(extensions):
    loaded = data.parse(dict(source="moons", noise=0.0, examples=500))
    x, y = np.concatenate([part["vector"] for part in data.load(loaded, 0).arrays.values()]).T
    upper = np.abs(np.hypot(x, y) - 1) < 1e-5
    lower = np.abs(np.hypot(x - 1, y - 0.5) - 1) < 1e-5
    assert (upper | lower).all() and 150 < upper.sum() < 350


def test_an_own_model_learns_the_mean_image(extensions, workdir):
    c = dict(total_steps=300, batch_size=64, steps_per_call=10, log_every=100, mesh=dict(data=1))
    c |= dict(model_name="independent_pixels", model=dict(image=(8, 8, 1)), data=dict(source="digits"))
    c |= dict(optim=dict(net=dict(name="adam", lr=0.2, schedule="cosine")))
    state = train(c, workdir)
    images = data.load(data.parse(c["data"]), 0).arrays["train"]["image"]
    np.testing.assert_allclose(jax.nn.sigmoid(state.nets["net"].params["bias"]), images.mean(0) / 255, atol=0.02)
