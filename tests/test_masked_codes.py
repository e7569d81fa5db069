"""Masked diffusion over the codes of a first stage: what it reads, its bound, what its samples are decoded from."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from members import SMALLEST, smoke

from gen_jax.core.gradients import Optimizer
from gen_jax.core.info import Info
from gen_jax.core.masking import MASK
from gen_jax.errors import ConfigError
from gen_jax.models import base, code_prior, masked_codes, vqvae
from gen_jax.models.abilities_base import Inpaints, ShowsSteps
from gen_jax.models.base import Preprocesses
from gen_jax.settings import validate
from gen_jax.training.preprocess import preprocessed
from gen_jax.training.program import Program

KEY, B, K = jax.random.key(0), 6, 8
FIRST = dict(image=(8, 8, 1), widths=(4,), codes=K, code_width=3)
SMALL = dict(image=(4, 4, 1), patch=1, layers=1, heads=2, width=8, num_classes=3, first_stage=FIRST)
OPTIMIZERS = {"net": Optimizer(optax.adam(1e-2))}


def build(**fields):
    return masked_codes.from_config(validate(masked_codes.Config, SMALL | fields, "config.model"), OPTIMIZERS)


def batch_of(n=B):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1))
    numbers = jnp.arange(n)
    return {"image": jnp.asarray(pixels, jnp.uint8), "label": numbers % 3, "index": numbers, "valid": numbers >= 0}


@functools.cache
def made():
    """A model, its first state, a batch, and its codes by the first stage alone."""
    model, batch = build(), batch_of()
    state = jax.jit(model.init)(KEY, batch)
    first = vqvae.from_config(vqvae.Config(**FIRST), OPTIMIZERS)
    codes = np.asarray(first.encode(model.first(state), batch))
    assert codes.shape == (B, 4, 4) and len(np.unique(codes)) > 2
    return model, state, batch, codes


class Shares(nn.Module):
    """Code k has the odds k + 1 at each place, whatever is seen."""

    def __call__(self, x, level, label, train=False):
        return jnp.broadcast_to(jnp.log(jnp.arange(1.0, K + 1)), x.shape)


def test_it_reads_the_codes_of_the_first_stage_in_raster_order():
    model, state, batch, codes = made()
    assert isinstance(model, Preprocesses) and not isinstance(model, Inpaints)
    found = jax.jit(model.preprocess)(state, batch)
    assert set(found) == {"latents"} and found["latents"].dtype == jnp.uint16
    np.testing.assert_array_equal(found["latents"], codes)
    tokens, counted = model.read(found, None)
    np.testing.assert_array_equal(tokens, codes.reshape(B, 16))
    assert tokens.dtype == jnp.int32 and counted.all() and counted.shape == (B, 16)


def test_codes_in_the_batch_stand_for_the_images():
    model, state, batch, codes = made()
    model = dataclasses.replace(model, network=Shares())
    cached = {key: value for key, value in batch.items() if key != "image"} | {"latents": jnp.asarray(codes)}
    times = jnp.linspace(0.1, 0.9, B)
    for values in (
        lambda batch: model.eval_step(state, batch, KEY),
        lambda batch: model.timed_loss(state, batch, times, KEY),
        lambda batch: model.log_prob(state, batch, KEY, 2),
    ):
        jax.tree.map(np.testing.assert_array_equal, values(batch), values(cached))


def test_a_step_leaves_the_first_stage_alone():
    model, state, batch, _ = made()
    after, means = jax.jit(model.train_step)(state, batch, KEY)
    jax.tree.map(np.testing.assert_array_equal, after.nets["first_stage"], state.nets["first_stage"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.nets["net"].params, after.nets["net"].params)
    assert any(jax.tree.leaves(moved)) and state.nets["first_stage"].opt == () and int(after.step) == 1
    assert means["loss"].weight == 16 * B


def test_both_priors_have_the_same_metrics_of_codes_of_which_they_know_nothing():
    model, state, batch, codes = made()
    cfg = code_prior.Config(first_stage=FIRST, width=8, layers=1, heads=2, dropout=0.0, num_classes=3)
    other = code_prior.from_config(cfg, OPTIMIZERS)
    first = jax.jit(other.init)(KEY, batch)
    flat = first.nets["net"].replace(params=jax.tree.map(jnp.zeros_like, first.nets["net"].params))
    means = [
        jax.jit(prior.eval_step)(start, batch | {"latents": jnp.asarray(codes)}, KEY)
        for prior, start in ((model, state), (other, first.replace(nets=first.nets | {"net": flat})))
    ]
    for found in means:
        np.testing.assert_allclose(found["log_prob"].total, -16 * np.log(K), rtol=1e-5)
        np.testing.assert_allclose(found["loss"].total, 16 * np.log(K), rtol=1e-5)
        np.testing.assert_array_equal(found["loss"].weight, 16)
    assert set(means[0]) == set(means[1]) - {"accuracy"} == {"loss", "log_prob"}


def test_the_bound_of_independent_codes_is_their_log_probability():
    """Exact where all are hidden, and in the mean over sets of hidden codes."""
    model, state, batch, codes = made()
    model = dataclasses.replace(model, network=Shares())
    each = np.log((codes.reshape(B, 16) + 1) / (K * (K + 1) / 2))
    all_hidden = jax.jit(lambda: model.timed_loss(state, batch, jnp.full(B, 0.99), KEY))()
    np.testing.assert_allclose(all_hidden, -each.mean(1), rtol=1e-5)
    found = np.asarray(jax.jit(lambda: model.log_prob(state, batch, KEY, 2000))())
    np.testing.assert_allclose(found, each.sum(1), atol=0.4)
    assert np.ptp(each.sum(1)) > 2
    means = jax.jit(model.eval_step)(state, batch, KEY)
    np.testing.assert_array_equal(means["log_prob"].total, -means["loss"].total)


@pytest.mark.parametrize("sampler", ["ancestral", pytest.param("confidence", marks=pytest.mark.slow)])
def test_samples_are_decoded_by_the_first_stage(sampler):
    """With a network that knows the codes of the images, they are what the first stage reconstructs."""
    model, state, _, codes = made()

    class Known(nn.Module):
        def __call__(self, x, level, label, train=False):
            return 50 * jax.nn.one_hot(codes, K)

    known = dataclasses.replace(model, network=Known())
    found = base.sampler(known, B, masked_codes.Sampling(steps=4, sampler=sampler))(state, KEY)
    np.testing.assert_array_equal(found, model.first_stage.decode(model.first(state), jnp.asarray(codes)))
    assert found.shape == (B, 8, 8, 1) and found.dtype == jnp.uint8


def test_hidden_codes_are_shown_in_grey():
    model, state, _, codes = made()
    assert isinstance(model, ShowsSteps)
    tokens = jnp.asarray(codes.reshape(B, 16)).at[:, 6].set(MASK)  # row 1, column 2
    options = masked_codes.Sampling()
    found = np.asarray(model.sample_shown(state, {"tokens": tokens}, jnp.int32(1), options)["decoded"])
    seen = tokens.at[:, 6].set(0)
    expected = np.array(model.sample_finish(state, {"tokens": seen}, options))
    expected[:, 2:4, 4:6] = 128
    np.testing.assert_array_equal(found, expected)


def test_a_cache_of_other_inputs_than_the_model_reads_is_left_alone(tmp_path, monkeypatch):
    """An earlier version called the codes otherwise. Read in their place they would be computed at every step."""
    program = Program(smoke(SMALLEST["code_prior"]))
    state, cache, preprocess = program.init(), epath.Path(tmp_path), code_prior.CodePrior.preprocess
    with monkeypatch.context() as patch:
        patch.setattr(code_prior.CodePrior, "preprocess", lambda *args: {"codes": preprocess(*args)["latents"]})
        assert "codes" in next(iter(preprocessed(program, state, cache).batches("test")))
    for _ in range(2):
        assert "latents" in next(iter(preprocessed(program, state, cache).batches("test")))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(image=(8, 8, 1)), r"image: expected \(4, 4, 1\), the codes of first_stage, got \(8, 8, 1\)"),
        (dict(image=(4, 4, 3)), r"image: expected \(4, 4, 1\)"),
        (dict(first_stage=dict(codes="x")), r"config.model.first_stage.codes: expected .* integer"),
        (dict(levels=8), r"config.model.levels: unknown key"),
    ],
)
def test_first_stages_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        build(**fields)


def test_the_data_are_those_of_the_first_stage():
    cfg = validate(masked_codes.Config, SMALL, "config.model")
    assert cfg.example() == Info("image", (8, 8, 1), 3)
    cfg.check_data(cfg.example())
    for info, message in (
        (Info("image", (4, 4, 1), 3), r"first_stage.image: expected \(4, 4, 1\), as in the data, got \(8, 8, 1\)"),
        (Info("image", (8, 8, 1), 2), "num_classes: expected"),
    ):
        with pytest.raises(ConfigError, match=message):
            cfg.check_data(info)
