"""Diffusion over latents: their scale over the training data, the first stage around it, and its config."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from members import smoke

from gen_jax import train
from gen_jax.core.denoising import SIGMA_DATA
from gen_jax.core.gradients import Optimizer
from gen_jax.errors import ConfigError
from gen_jax.models import base, latent_diffusion, vae, vqvae
from gen_jax.models.abilities_base import Measures
from gen_jax.models.base import Preprocesses
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import validate
from gen_jax.training.preprocess import preprocessed
from gen_jax.training.program import Program

KEY, B = jax.random.key(0), 6
EACH = ["vqvae", pytest.param("vae", marks=pytest.mark.slow)]
STAGES = {
    "vqvae": (vqvae, dict(image=(8, 8, 1), widths=(4,), codes=16, code_width=3), (4, 4, 3)),
    "vae": (vae, dict(image=(8, 8, 1), widths=(8,), latent=5), (1, 1, 5)),
}
SMALL = dict(layers=1, heads=2, width=8, patch=1, num_classes=3)


def build(name, **fields):
    _, first, image = STAGES[name]
    section = SMALL | dict(first_stage_name=name, first_stage=first, image=image) | fields
    cfg = validate(latent_diffusion.Config, section, "config.model")
    return latent_diffusion.from_config(cfg, {"net": Optimizer(optax.adam(1e-2))})


def batch_of(n=B):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1))
    numbers = jnp.arange(n)
    return {"image": jnp.asarray(pixels, jnp.uint8), "label": numbers % 3, "index": numbers, "valid": numbers < n - 1}


@functools.cache
def made(name):
    """A model, its state with the scale of a batch, the batch."""
    model, batch = build(name), batch_of()
    state = jax.jit(model.init)(KEY, batch)
    means = model.measure(state, batch)
    found = {key: mean.total.sum(0) / mean.weight.sum(0) for key, mean in means.items()}
    return model, model.measured(state, found), batch


def maps(name):
    """The latents as maps, by the first stage alone."""
    model, state, batch = made(name)
    codes = np.asarray(model.first_stage.encode(model.first(state), batch))
    if name == "vae":
        return codes[:, None, None]
    book = state.nets["first_stage"].stats["codebook"]
    return np.asarray(book["sums"] / book["counts"][:, None])[codes]


@pytest.mark.parametrize("name", EACH)
def test_each_channel_has_the_mean_and_the_deviation_of_the_valid_rows(name):
    model, state, batch = made(name)
    assert isinstance(model, Measures) and isinstance(model, Preprocesses)
    each = maps(name)[:-1].reshape(-1, model.image[-1])
    np.testing.assert_allclose(state.extra["mean"], each.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.extra["std"], each.std(0), rtol=1e-3)
    scaled = np.asarray(model.with_inputs(state, batch)["scaled"])
    assert scaled.shape == (B, *model.image)
    np.testing.assert_allclose(scaled[:-1].reshape(-1, model.image[-1]).std(0), SIGMA_DATA, rtol=1e-3)
    np.testing.assert_allclose(scaled * each.std(0) / SIGMA_DATA + each.mean(0), maps(name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", EACH)
def test_latents_in_the_batch_stand_for_the_images(name):
    model, state, batch = made(name)
    latents = jax.jit(model.preprocess)(state, batch)
    assert latents["latents"].dtype == (jnp.uint16 if name == "vqvae" else jnp.float32)
    cached = {key: value for key, value in batch.items() if key != "image"} | latents
    here, there = (jax.jit(model.eval_step)(state, each, KEY)["loss"].total for each in (batch, cached))
    np.testing.assert_allclose(here, there, rtol=1e-5)
    timed = jax.jit(model.timed_loss)
    here, there = (timed(state, each, jnp.linspace(0.1, 0.9, B), KEY) for each in (batch, cached))
    np.testing.assert_allclose(here, there, rtol=1e-5)


@pytest.mark.parametrize("name", EACH)
def test_samples_are_decoded_from_the_scale_of_the_latents(name):
    """With a network that knows the latents of the images, they are what the first stage reconstructs."""
    model, state, batch = made(name)
    scaled = model.with_inputs(state, batch)["scaled"]

    class Known(nn.Module):
        def __call__(self, x, log_snr, label, train=False):
            return scaled

    known = dataclasses.replace(model, network=Known(), target="x")
    options = latent_diffusion.Sampling(steps=4)
    found = np.asarray(base.sampler(known, B, options)(state, KEY), int)
    first = model.first(state)
    expected = model.first_stage.decode(first, model.first_stage.encode(first, batch))
    np.testing.assert_allclose(found, np.asarray(expected, int), atol=1)


@pytest.mark.slow
def test_a_step_leaves_the_first_stage_and_the_scale_alone():
    model, state, batch = made("vqvae")
    after, _ = jax.jit(model.train_step)(state, batch, KEY)
    for part in (lambda s: s.nets["first_stage"], lambda s: s.extra):
        for a, b in zip(jax.tree.leaves(part(state)), jax.tree.leaves(part(after)), strict=True):
            np.testing.assert_array_equal(a, b)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.nets["net"].params, after.nets["net"].params)
    assert any(jax.tree.leaves(moved)) and state.nets["first_stage"].opt == ()


@pytest.mark.slow
def test_a_run_measures_its_training_data_once(tmp_path):
    """Before the first step, after the first stage is read; a run that continues keeps what it has."""
    experiment = smoke("experiments/diffusion/latents.py", "eval_every=0", "evals={}")
    state = train(experiment, tmp_path / "run")
    program = Program(experiment)
    whole = preprocessed(program, state, RunDir(tmp_path / "run").path / "cache")
    rows = [np.asarray(whole.model._maps(state, batch))[np.asarray(batch["valid"])] for batch in whole.batches("train")]
    each = np.concatenate(rows).reshape(-1, 4).astype(np.float64)
    assert len(each) == 16 * whole.dataset.sizes["train"]
    np.testing.assert_allclose(state.extra["mean"], each.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.extra["std"], each.std(0), rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(image=(4, 4, 4)), r"image: expected \(4, 4, 3\), the latents of first_stage"),
        (dict(first_stage=dict(codes="x")), r"config.model.first_stage.codes: expected .* integer"),
        (dict(first_stage=dict(latent=3)), "config.model.first_stage.latent: unknown key"),
        (dict(first_stage_name="gan"), "first_stage_name: expected 'vae' or 'vqvae'"),
        (dict(first_stage=3), "first_stage: expected a section, got 3"),
    ],
)
def test_first_stages_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        build("vqvae", **fields)


def test_a_first_stage_with_classes_is_refused():
    with pytest.raises(ConfigError, match=r"first_stage\.num_classes: expected 0"):
        build("vae", first_stage=STAGES["vae"][1] | dict(num_classes=3))
