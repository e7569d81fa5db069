"""Classification accuracy score (Ravuri & Vinyals 2019): what a classifier learns from samples alone."""

import functools
from typing import Literal

from gen_jax import protocol
from gen_jax.evaluators import base
from gen_jax.features import choice, classifier
from gen_jax.settings import Positive
from gen_jax.state import State


class Config(base.EvalConfig):
    """n: samples to train on, as many as there are training images is usual. recipe: of the classifier."""

    n: Positive = 50_000
    recipe: classifier.Recipe = classifier.Recipe()
    when: Literal["always", "end"] = "end"

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", self.split)


def from_config(cfg: Config, context: base.Context) -> base.Evaluator:
    """`classification_accuracy` on the real images of `split` of a classifier trained on class-conditional samples.

    `classification_accuracy_real` is that of the same recipe on the training split.

    Raises:
      ConfigError: the model knows no classes.
    """
    conditional = bool(getattr(context.model, "num_classes", 0))
    base.require(conditional, "classification_score", "a class-conditional model")
    features = base.choose_features(choice.Config(recipe=cfg.recipe), context, "classification_score", cfg.split)
    sample = base.sampler(context, "classification_score", lambda image, asked: (image, asked))
    load = functools.cache(features.load)

    def evaluate(state: State) -> base.Report:
        weights, test = load(), base.images(context.batches(cfg.split))
        trained = classifier.train(cfg.recipe, sample(state, cfg.n), context.info.num_classes, context.poll)
        real, facts = base.real(cfg.split, [test]), features.facts(weights)
        scores = {
            protocol.tag("classification_accuracy", **real.facts(cfg.n), **facts): trained,
            protocol.tag("classification_accuracy_real", **real.facts(0), **facts, of="train"): weights.variables,
        }
        return base.Report({tag: classifier.accuracy(features.apply, w, test) for tag, w in scores.items()})

    names = base.named("classification_accuracy", "classification_accuracy_real")
    return base.Evaluator(evaluate, base.draws(context.model), names, cfg.n)
