"""Whether samples are copies of training images: each beside its nearest, in pixels."""

from typing import Literal

import numpy as np

from gen_jax import pictures, protocol
from gen_jax.evaluators import base
from gen_jax.metrics.precision_recall import nearest
from gen_jax.settings import Positive
from gen_jax.state import State


class Config(base.EvalConfig):
    """n: samples, and images of `split` that give the floor. shown: in the picture."""

    n: Positive = 1000
    shown: Positive = 32
    when: Literal["always", "end"] = "end"

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", self.split)


def from_config(cfg: Config, context: base.Context) -> base.Evaluator:
    """`neighbour_distance`: the median over samples of the root mean square gap, in grey levels, to the nearest
    training image; `neighbour_copies`: the share nearer than 99 % of the images of `split` are.

    Its floor is `neighbour_distance_floor`, the median of `split`, whose images are no copies. The picture `neighbours`
    shows the samples that are nearest, above what they are near to.
    """
    base.require(cfg.split != "train", "neighbours: split", "another split than train")
    sample = base.sampler(context, "neighbours", lambda image, asked: image)
    train: list[np.ndarray] = []
    floor: list[np.ndarray] = []

    def distances(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = images.reshape(len(images), -1)
        distance, index = nearest(rows, train[0].reshape(len(train[0]), -1))
        return distance / np.sqrt(rows.shape[1]), index

    def evaluate(state: State) -> base.Report:
        if not train:
            train.append(base.images(context.batches("train"))[0])
            rows = base.results(lambda batch: (batch["image"], batch["valid"]), context.batches(cfg.split), every=1)
            floor.append(distances(base.first(rows, cfg.n))[0])
        made = sample(state, cfg.n)
        distance, index = distances(made)
        facts = dict(n_real=len(train[0]), n_fake=len(made), split="train", features="pixels", resize="none")
        of_split = facts | dict(n_fake=len(floor[0]), of=cfg.split)
        scalars = {
            protocol.tag("neighbour_distance", **facts): float(np.median(distance)),
            protocol.tag("neighbour_copies", **facts): float((distance < np.quantile(floor[0], 0.01)).mean()),
            protocol.tag("neighbour_distance_floor", **of_split): float(np.median(floor[0])),
        }
        closest = np.argsort(distance, kind="stable")[: cfg.shown]
        return base.Report(scalars, {"neighbours": pictures.pairs(made[closest], train[0][index[closest]])})

    return evaluate
