"""Random triples of the grey images of another source as the channels of one: stacked MNIST has 1,000 classes."""

from typing import Literal

import numpy as np

from gen_jax.data import sources
from gen_jax.data.datasets import ExampleSet
from gen_jax.data.source import SPLITS, Arrays, Info
from gen_jax.data.sources.unpaired import Inner, Outer
from gen_jax.errors import ConfigError


class Config(Outer):
    """of: the section of a source of images [H, W, 1] with labels, which cuts the splits.

    Each split has as many triples as the source has images there, drawn within the split by `of.split_seed`.
    """

    source: Literal["stacked"] = "stacked"
    of: Inner


def load(cfg: Config, seed: int) -> ExampleSet:
    """Images [H, W, 3] with the label c^2 a + c b + d of digits a, b, d of c classes; `seed` is of the training order.

    Raises ConfigError if `of` has no grey images with labels in memory.
    """
    base = sources.load(cfg.of, seed)
    info = base.info
    if not isinstance(base, ExampleSet) or base.fetch or info.shape[2:] != (1,) or not info.num_classes:
        raise ConfigError(
            f"config.data.of: expected grey images with labels, in memory, found {info.kind} {info.shape}"
        )
    classes = info.num_classes
    arrays = {
        split: _triples(arrays, classes, np.random.default_rng([cfg.of.split_seed, SPLITS.index(split)]))
        for split, arrays in base.arrays.items()
    }
    return ExampleSet(Info("image", (*info.shape[:2], 3), classes**3), arrays, seed)


def _triples(arrays: Arrays, classes: int, rng: np.random.Generator) -> Arrays:
    n = len(arrays["label"])
    index = rng.integers(0, n, (n, 3))
    image = np.concatenate([arrays["image"][i] for i in index.T], axis=3)
    return {"image": image, "label": (arrays["label"][index] @ classes ** np.arange(2, -1, -1)).astype(np.int32)}
