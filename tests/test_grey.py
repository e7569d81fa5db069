"""Grey levels of pixels: as they are, or few and drawn at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.core import grey

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
