"""Grey levels of pixels: as they are, or few and drawn at random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import smoke

from gen_jax.core import grey
from gen_jax.training.program import Program

KEY = jax.random.key(0)


@pytest.mark.parametrize("levels", [2, 5, 17])
def test_few_levels_keep_the_mean_and_are_next_to_the_pixel(levels):
    pixels = np.array([0, 1, 64, 128, 254, 255], np.uint8)
    image = jnp.asarray(np.broadcast_to(pixels[:, None, None, None], (6, 100, 100, 1)))
    place = pixels.astype(float) * (levels - 1) / 255
    for rng in (KEY, jax.random.split(KEY, 6)):
        values = np.asarray(grey.quantise(image, levels, rng))
        np.testing.assert_allclose(values.mean((1, 2, 3)), place, atol=0.03)
        assert (np.abs(values - place[:, None, None, None]) < 1).all()
        assert values[:2].std() > 0 and values[0].max() == 0 and values[-1].min() == levels - 1


def test_256_levels_are_the_pixels_and_come_back():
    image = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(grey.quantise(image, 256, KEY), image)
    np.testing.assert_array_equal(grey.to_pixels(grey.quantise(image, 256, KEY), 256), image)
    assert grey.to_pixels(jnp.arange(3), 3).tolist() == [0, 128, 255]


def test_all_families_are_evaluated_on_the_same_bits_whatever_the_seed():
    read = {
        "vae": lambda model, batch: model._observe(batch, None, train=False),
        "transformer": lambda model, batch: model.tokens(batch)[:, 1:],
        "masked_diffusion": lambda model, batch: model.read(batch, None)[0],
    }
    paths = {
        "vae": "vae/digits",
        "transformer": "transformer/digits_pixels",
        "masked_diffusion": "masked_diffusion/digits",
    }
    flags = {"transformer": ("model.levels=2",)}
    found = []
    for seed, (family, reader) in enumerate(read.items()):
        path = f"experiments/{paths[family]}.py"
        program = Program(smoke(path, f"seed={seed}", "eval_batch_size=64", *flags.get(family, ())))
        batch = next(iter(program.batches("test")))
        found.append(np.asarray(reader(program.model, batch), int).reshape(64, -1))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert set(np.unique(found[0])) == {0, 1}


def test_training_draws_other_bits_at_each_step():
    program = Program(smoke("experiments/masked_diffusion/digits.py"))
    batch = next(iter(program.batches("test")))
    read = functools.partial(program.model.read, batch)
    bits = [np.asarray(read(rng)[0]) for rng in (jax.random.key(1), jax.random.key(2), None)]
    grey_pixels = (np.asarray(batch["image"]) % 255 > 0).reshape(len(bits[0]), -1)
    for a, b in ((0, 1), (0, 2)):
        assert 0.1 < (bits[a] != bits[b])[grey_pixels].mean() < 0.5
        assert (bits[a] == bits[b])[~grey_pixels].all()
