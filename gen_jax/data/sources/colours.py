"""One set of grey images as two of colours without pairs, B through a known map: shows what a translation recovers.

A paints the images on coloured paper, each with its own two colours. B is a painted image of A's kind after an
invertible map of its colours. The map, not a set of pairs, is what a model has to find.
"""

from typing import Literal

import numpy as np
from jaxtyping import UInt8

from gen_jax.data.datasets import ExampleSet
from gen_jax.data.source import Arrays, Info
from gen_jax.data.sources.digits import Config as Digits
from gen_jax.data.sources.unpaired import OTHER_ORDER, Inner, Outer, UnpairedSet, images
from gen_jax.errors import ConfigError


class Config(Outer):
    """of: a section like `config.data`, of images with one channel. Its splits are kept.

    The training images are cut into two halves at random, one for A and one for B, so that no pair exists; in the
    other splits all images are in both, row by row, so that translations can be held against the truth.
    """

    source: Literal["colours"] = "colours"
    of: Inner = Digits()


def paint(grey: UInt8[np.ndarray, "N H W 1"], rng: np.random.Generator) -> UInt8[np.ndarray, "N H W 3"]:
    """Ink (255, 255 u, 0) on paper (0, 0, 255 v), a new u and v in [0, 1] for each image.

    Their densities are 1 / (2 sqrt(u)) and 1 / (2 sqrt(v)), which are not their own mirror images: u -> 1 - u would
    leave a symmetric one as it is, and the map could be recovered only up to it.
    """
    u, v = rng.uniform(size=(2, len(grey), 1, 1)).astype(np.float32) ** 2
    ink = grey[..., 0] / np.float32(255)
    return np.stack([np.rint(255 * share).astype(np.uint8) for share in (ink, ink * u, (1 - ink) * v)], -1)


def recolour(image: UInt8[np.ndarray, "*shape 3"]) -> UInt8[np.ndarray, "*shape 3"]:
    """The known map: (r, g, b) -> (255 - g, 255 - b, 255 - r). It is undone by 255 - x[..., [2, 0, 1]]."""
    return 255 - image[..., [1, 2, 0]]


def load(cfg: Config, seed: int) -> UnpairedSet:
    """The two sets, painted and halved by `split_seed` of `of`; `seed` is that of the training orders.

    Raises ConfigError if `of` has no grey images that live on the device.
    """
    found = images(cfg.of, seed, "config.data.of")
    if found.info.shape[-1] != 1 or found.fetch:
        raise ConfigError("config.data.of: expected images of one channel that fit the device")
    sides: dict[str, dict[str, Arrays]] = {"a": {}, "b": {}}
    for number, (split, arrays) in enumerate(found.arrays.items()):
        rng = np.random.default_rng([cfg.of.split_seed, number])
        painted = paint(arrays["image"], rng)
        a = b = np.arange(len(painted))
        if split == "train":
            a, b = np.array_split(rng.permutation(len(painted)), 2)
        sides["a"][split], sides["b"][split] = {"image": painted[a]}, {"image": recolour(painted[b])}
    info = Info("image", (*found.info.shape[:2], 3))
    return UnpairedSet(ExampleSet(info, sides["a"], seed), ExampleSet(info, sides["b"], seed + OTHER_ORDER), True)
