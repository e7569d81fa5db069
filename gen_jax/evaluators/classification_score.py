"""Classification accuracy score (Ravuri & Vinyals 2019): what a classifier learns from samples alone."""

import functools
from typing import Literal

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.features import choice, classifier
from gen_jax.runs import metric_tags
from gen_jax.settings import Positive


class Config(evaluator.SampledConfig):
    """What the classifier is trained on."""

    n: Positive = 50_000
    """Samples to train on; as many as there are training images is usual."""
    recipe: classifier.Recipe = classifier.Recipe()
    """Training of the classifier."""
    when: Literal["always", "end"] = "end"
    """At each evaluation, or once at the end; `best` can only name a metric of each evaluation."""

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", self.split)


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`classification_accuracy` on the real images of `split` of a classifier trained on class-conditional samples.

    `classification_accuracy_real` is that of the same recipe on the training split.

    Raises:
      ConfigError: the model knows no classes.
    """
    evaluator.require(context.num_classes > 0, "classification_score", "a class-conditional model")
    features = evaluator.choose_features(choice.Config(recipe=cfg.recipe), context, "classification_score", cfg.split)
    sample = evaluator.sampler(context, cfg, "classification_score", lambda image, label: (image, label))
    load = functools.cache(features.load)

    def evaluate(state: State) -> evaluator.Report:
        weights, test = load(), evaluator.images(context.batches(cfg.split))
        trained = classifier.train(cfg.recipe, sample(state, cfg.n), context.info.num_classes, context.poll)
        real, facts = metric_tags.real(cfg.split, [test]), features.facts(weights)
        scores = {
            metric_tags.tag("classification_accuracy", **real.facts(cfg.n), **facts, **context.facts(cfg)): trained,
            metric_tags.tag("classification_accuracy_real", **real.facts(0), **facts, of="train"): weights.variables,
        }
        return evaluator.Report({tag: classifier.accuracy(features.apply, w, test) for tag, w in scores.items()})

    names = evaluator.named("classification_accuracy", "classification_accuracy_real")
    return evaluator.Evaluator(evaluate, evaluator.draws(context, cfg), names, cfg.n)
