"""Whether samples are copies of training images: each beside its nearest, in pixels."""

import functools
from typing import Literal

import numpy as np

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.metrics.precision_recall import nearest
from gen_jax.runs import grids, metric_tags
from gen_jax.settings import Few, Positive


class Config(evaluator.SampledConfig):
    """What is compared."""

    n: Positive = 1000
    """Samples, and images of `split` that give the floor."""
    shown: Few = 32
    """Samples in the picture."""
    when: Literal["always", "end"] = "end"
    """At each evaluation, or once at the end; `best` can only name a metric of each evaluation."""

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", self.split)


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`neighbour_distance`: the median over samples of the root mean square gap, in grey levels, to the nearest
    training image; `neighbour_copies`: the share nearer than 99 % of the images of `split` are.

    Its floor is `neighbour_distance_floor`, the median of `n` images of `split`, which are no copies; `of` names them.
    The picture `neighbours` shows the samples that are nearest, above what they are near to, and how near.
    """
    evaluator.require_apart("neighbours: split", cfg.split, "train")
    sample = evaluator.sampler(context, cfg, "neighbours", lambda image, label: image)

    @functools.cache
    def known() -> tuple[np.ndarray, np.ndarray, metric_tags.Real, metric_tags.Real]:
        """The training images, the distances of the floor's, and which both are."""
        train, label = evaluator.images(context.batches("train"))
        floor, floor_label = evaluator.images(context.batches(cfg.split))
        drawn = np.random.default_rng(0).permutation(len(floor))[: cfg.n]
        floor, floor_label = floor[drawn], floor_label[drawn]
        which = metric_tags.real("train", [(train, label)]), metric_tags.real(cfg.split, [(floor, floor_label)])
        return train, _distances(floor, train)[0], *which

    def evaluate(state: State) -> evaluator.Report:
        train, floor, of_train, of_floor = known()
        made = sample(state, cfg.n)
        distance, index = _distances(made, train)

        def tag(name: str, n_fake: int, **facts: object) -> str:
            return metric_tags.tag(name, **of_train.facts(n_fake), features="pixels", resize="none", **facts)

        facts, share = context.facts(cfg), (distance < np.quantile(floor, 0.01)).mean()
        scalars = {
            tag("neighbour_distance", len(made), **facts): float(np.median(distance)),
            tag("neighbour_copies", len(made), of=of_floor.name, **facts): float(share),
            tag("neighbour_distance_floor", len(floor), of=of_floor.name): float(np.median(floor)),
        }
        closest = np.argsort(distance, kind="stable")[: cfg.shown]
        labels = grids.Labels(
            "The samples nearest to training images, and the distance in grey levels",
            rows=("sample", "nearest"),
            captions=[f"{gap:.1f}" for gap in distance[closest]],
        )
        picture = grids.pairs(made[closest], train[index[closest]], labels=labels)
        return evaluator.Report(scalars, {"neighbours": picture})

    names = evaluator.named("neighbour_distance", "neighbour_copies", "neighbour_distance_floor")
    return evaluator.Evaluator(evaluate, evaluator.draws(context, cfg), names, cfg.n)


def _distances(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each image [N, H, W, C] the root mean square gap to its nearest other, and which that is."""
    rows = images.reshape(len(images), -1)
    distance, index = nearest(rows, others.reshape(len(others), -1))
    return distance / np.sqrt(rows.shape[1]), index
