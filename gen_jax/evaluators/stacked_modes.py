"""How many of the 1,000 modes of stacked MNIST samples reach (Metz et al. 2017; the protocol of PacGAN)."""

import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.features import Weights, classifier
from gen_jax.metrics.modes import kl_from_uniform
from gen_jax.runs import metric_tags
from gen_jax.settings import Positive


class Config(evaluator.SampledConfig):
    """What is measured."""

    n: Positive = 26_000
    """Samples."""
    recipe: classifier.Recipe = classifier.Recipe()
    """Training of the classifier of one channel."""
    when: Literal["always", "end"] = "end"
    """At each evaluation, or once at the end; `best` can only name a metric of each evaluation."""

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", self.split)


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`stacked_modes` that at least one sample falls on, `stacked_kl` of their shares from uniform, in nats.

    `_floor` is that of the labels of `n` training images, drawn with replacement. A classifier trained on the first
    channel of the training images names the class of each channel; `stacked_channel_accuracy` is its share of right
    names of `split`'s first channels.

    Raises:
      ConfigError: the data are not images of three channels with c^3 labels, c^2 a + c b + d.
    """
    info = context.info
    classes = round(info.num_classes ** (1 / 3))
    stacked = info.kind == "image" and info.shape[-1] == 3 and classes > 1 and classes**3 == info.num_classes
    evaluator.require(stacked, "stacked_modes", "stacked images of three channels and c ** 3 classes")

    def first_channel(split: str) -> classifier.Split:
        image, label = evaluator.images(context.batches(split))
        return image[..., :1], label // classes**2

    features = classifier.features(
        cfg.recipe, classes, lambda: first_channel("train"), lambda: first_channel(cfg.split), context.poll
    )

    def modes(variables, image, label):  # [B]
        channels = jnp.moveaxis(image, -1, 1).reshape(-1, *image.shape[1:3], 1)  # [3 B, H, W, 1]
        digits = features.apply(variables, channels)[1].argmax(-1).reshape(-1, 3)
        return digits @ classes ** jnp.arange(2, -1, -1)

    sample = evaluator.sampler(context, cfg, "stacked_modes", modes)

    def counted(found: np.ndarray, suffix: str, **facts: object) -> dict[str, float]:
        share = np.bincount(found, minlength=info.num_classes) / len(found)
        values = {"stacked_modes": (share > 0).sum(), "stacked_kl": kl_from_uniform(share)}
        return {metric_tags.tag(name + suffix, **facts): float(value) for name, value in values.items()}

    @functools.cache
    def known() -> tuple[Weights, metric_tags.Real, dict[str, float]]:
        """The classifier, which the training images are, and the numbers that need no samples."""
        weights = features.load()
        train, test = (
            metric_tags.real(split, evaluator.rows(context.batches(split))) for split in ("train", cfg.split)
        )
        drawn = np.random.default_rng(0).choice(train.label, cfg.n)
        of_labels = dict(features="labels", resize="none", of=train.name)
        scalars = counted(drawn, "_floor", **train.facts(cfg.n), **of_labels)
        tag = metric_tags.tag("stacked_channel_accuracy", **test.facts(0), **features.facts(weights))
        right = classifier.accuracy(features.apply, weights.variables, first_channel(cfg.split))
        return weights, train, scalars | {tag: right}

    def evaluate(state: State) -> evaluator.Report:
        weights, train, scalars = known()
        found = sample(state, cfg.n, weights.variables)
        return evaluator.Report(
            counted(found, "", **train.facts(cfg.n), **features.facts(weights), **context.facts(cfg)) | scalars
        )

    names = ("stacked_modes", "stacked_kl", "stacked_modes_floor", "stacked_kl_floor", "stacked_channel_accuracy")
    return evaluator.Evaluator(evaluate, evaluator.draws(context, cfg), evaluator.named(*names), cfg.n)
