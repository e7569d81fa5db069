"""Grey levels of images: 256 as they are, fewer drawn at random; two are the bits of a binarised set.

Every model of few levels reads them from here, so all are evaluated on the same images.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, UInt8
from pydantic import Field

from gen_jax.core import ops
from gen_jax.settings import Whole

Levels = Annotated[Whole, Field(ge=2, le=256)]


def quantise(image: UInt8[Array, "B *shape"], levels: int, rng: Key[Array, "*rows"]) -> Int[Array, "B *shape"]:
    """Values below `levels`: the level under or over the pixel, with its distance to the other as probability.

    So the mean is kept. Of 2 levels they are bits with the grey level as probability (Salakhutdinov & Murray 2008), of
    256 the pixels.

    Args:
      rng: one key, or one a row.
    """
    if levels == 256:
        return image.astype(jnp.int32)
    # 16 random bits a pixel: exact on a level, within 2^-17 of the probability between
    scaled = image.astype(jnp.uint32) * (levels - 1)
    threshold = (scaled % 255 * 65536 + 127) // 255
    if rng.ndim == 0:
        bits = jax.random.bits(rng, image.shape, "uint16")
    else:
        bits = jax.vmap(lambda key: jax.random.bits(key, image.shape[1:], "uint16"))(rng)
    return (scaled // 255 + (bits < threshold)).astype(jnp.int32)


def evaluation_keys(index: Int[Array, " B"]) -> Key[Array, " B"]:
    """The keys that examples are quantised with in evaluation, whatever the seed of a run: a test set is fixed."""
    return ops.row_keys(jax.random.key(0), index)


def to_pixels(values: Int[Array, "*shape"], levels: int) -> UInt8[Array, "*shape"]:
    """The pixels of values below `levels`, evenly spaced from 0 to 255."""
    return ops.to_uint8(values / (levels - 1))
