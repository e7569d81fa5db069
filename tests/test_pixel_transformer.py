"""Images as sequences: an exact likelihood, labels as first tokens, order of the pixels."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core.gradients import Optimizer
from gen_jax.errors import ConfigError
from gen_jax.models import code_prior, pixel_transformer
from gen_jax.models.base import HasLogProb
from gen_jax.settings import validate

ROOT = jax.random.key(0)


@functools.cache
def build(levels=2, num_classes=2, image=(2, 2, 1)):
    model = pixel_transformer.build(Optimizer(optax.adam(1e-2)), image, levels, num_classes, layers=2, heads=2, width=8)
    batch = {"values": jnp.zeros((1, *image), jnp.int32), "label": jnp.zeros(1, jnp.int32)}
    state = jax.jit(model.init)(ROOT, batch)
    net = state.nets["net"]
    moved = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), net.params)
    return model, state.replace(nets={"net": net.replace(params=moved)})


def all_images(label):
    images = np.array(list(itertools.product((0, 1), repeat=4)), np.int32).reshape(16, 2, 2, 1)
    return {"values": jnp.asarray(images), "label": jnp.full(16, label)}


@pytest.mark.slow
def test_probabilities_of_all_images_add_up_to_one():
    model, state = build()
    assert isinstance(model, HasLogProb)
    found = [np.exp(model.log_prob(state, all_images(label), ROOT, 1)) for label in (0, 1)]
    np.testing.assert_allclose([p.sum() for p in found], 1, rtol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3  # the label matters


def test_samples_follow_the_likelihood_and_the_label():
    model, state = build()
    sample = jax.jit(lambda rng: model.sample(state, rng, 4000, pixel_transformer.Sampling(label=1)))
    codes = np.asarray(sample(ROOT)).reshape(4000, 4) // 255 @ [8, 4, 2, 1]
    expected = np.exp(model.log_prob(state, all_images(1), ROOT, 1))
    np.testing.assert_allclose(np.bincount(codes, minlength=16) / 4000, expected, atol=0.03)


@pytest.mark.slow
def test_classes_come_in_turn_and_pixels_in_raster_order():
    model, state = build(levels=256, num_classes=3, image=(2, 3, 2))
    image = jnp.arange(12, dtype=jnp.uint8).reshape(1, 2, 3, 2)
    tokens = model.tokens({"image": image, "label": jnp.array([2]), "index": jnp.zeros(1, jnp.int32)})
    assert tokens[0].tolist() == [258, *range(12)]
    samples = model.sample(state, ROOT, 5, pixel_transformer.Sampling())
    assert samples.shape == (5, 2, 3, 2) and samples.dtype == jnp.uint8
    alone = model.sample(state, ROOT, 1, pixel_transformer.Sampling(label=0))
    np.testing.assert_array_equal(samples[0], alone[0])


def test_it_learns_a_fixed_image():
    model, state = build()
    batch = {"values": jnp.asarray([[[1], [0]], [[0], [1]]])[None], "label": jnp.zeros(1, jnp.int32)}
    state, means = jax.jit(lambda s: jax.lax.scan(lambda s, _: model.train_step(s, batch, ROOT), s, length=100))(state)
    assert float(means["loss"].total[-1] / means["loss"].weight[-1]) < 0.05
    drawn = model.sample(state, ROOT, 2, pixel_transformer.Sampling(temperature=0.0, label=0))
    np.testing.assert_array_equal(drawn, np.broadcast_to(255 * batch["values"], (2, 2, 2, 1)))


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (pixel_transformer.Config, dict(heads=3), "width: expected a multiple of heads = 3"),
        (pixel_transformer.Config, dict(width=12, position="rotary"), "width: expected an even number a head"),
        (code_prior.Config, dict(heads=3), "width: expected a multiple of heads = 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(config, fields, message):
    image = dict(image=(2, 2, 1)) if config is pixel_transformer.Config else {}
    with pytest.raises(ConfigError, match=rf"config\.model\.{message}"):
        validate(config, image | fields, "config.model")
