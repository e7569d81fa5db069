"""How far samples are from real images: FID, KID, Inception Score, precision and its relatives, with floors."""

import functools
import itertools
from typing import Annotated, Any, Literal

import jax
import numpy as np
from pydantic import Field

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.features import Features, choice
from gen_jax.io.cache import Arrays, cached
from gen_jax.metrics.frechet import fid, moments
from gen_jax.metrics.inception_score import inception_score
from gen_jax.metrics.kid import kid
from gen_jax.metrics.precision_recall import Shares, precision_recall, radii
from gen_jax.runs import metric_tags, plots
from gen_jax.settings import Few, Positive, Whole

MEASURED = ("fid", "kid", "inception_score", *Shares._fields)
RARE = 0.2  # of the share of a class among real images


class Config(evaluator.SampledConfig):
    """What is measured."""

    n: Positive = 10_000
    """Samples."""
    floor: str = "train"
    """The split whose images are measured as if they were samples, n of them at most."""
    features: choice.Config = choice.Config()
    """The network that gives the features."""
    k: Positive = 3
    """The neighbour that a ball of precision, recall, density and coverage reaches to."""
    kid_subsets: Few = 100
    """Subsets that KID averages over."""
    kid_subset_size: Annotated[Whole, Field(ge=2)] = 1000
    """Images of each subset."""
    when: Literal["always", "end"] = "end"
    """At each evaluation, or once at the end; `best` can only name a metric of each evaluation."""

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", self.floor, self.split)


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`fid`, `kid`, `inception_score`, `precision`, `recall`, `density`, `coverage` of `n` samples against the split.

    Each name says how it was measured (`gen_jax.runs.metric_tags`): n_real, n_fake, split, features and their hash,
    resize, a hash of the real images. Beside each stands its `_floor`: real images in place of the samples.
    With a classifier also `class_share_min` and `class_share_max` of the samples and the picture `class_shares`, and of
    class-conditional models `as_asked`, the share that is classified as asked. A warning names the classes that samples
    show less than a fifth as often as the real images do.

    Raises:
      ConfigError: the model does not sample images, floor and split are one, or there are no more than k images.
    """
    evaluator.require_apart("generation: floor", cfg.floor, cfg.split)
    evaluator.require(cfg.n > cfg.k, "generation", f"n above k = {cfg.k}, not {cfg.n}")
    for split in (cfg.split, cfg.floor):
        size = context.size(split)
        evaluator.require(
            size is None or size > cfg.k, "generation", f"more than k = {cfg.k} images in {split}, not {size}"
        )
    features = evaluator.choose_features(cfg.features, context, "generation", cfg.split)
    sample = evaluator.sampler(
        context, cfg, "generation", lambda variables, image, label: (*features.apply(variables, image), label)
    )
    reference = functools.cache(lambda: _Reference(cfg, context, features))

    def evaluate(state: State) -> evaluator.Report:
        known = reference()
        found, logits, label = sample(state, cfg.n, known.weights.variables)
        report = evaluator.Report(known.measured(found, logits, **context.facts(cfg)) | known.floors)
        if features.name == "classifier":
            known.add_classes(report, logits.argmax(1), label)
        return report

    measured = [name + suffix for name in MEASURED for suffix in ("", "_floor")]
    classes = ("class_share_min", "class_share_max", "as_asked", "classifier_accuracy")
    names = evaluator.named(*measured, *classes if features.name == "classifier" else ())
    return evaluator.Evaluator(evaluate, evaluator.draws(context, cfg), names, cfg.n)


class _Reference:
    """The real images of `cfg.split`, what is known of them and the floors: all that samples are held against.

    Attributes:
      weights: of the features.
      floors: tag -> value.
    """

    def __init__(self, cfg: Config, context: evaluator.Context, features: Features):
        self.cfg, self.context, self.features = cfg, context, features
        self.weights = features.load()
        self.real, self.arrays = self._read(cfg.split)
        known = self.arrays["features"]

        def build() -> Arrays:
            mean, covariance = moments(known)
            return {"mean": mean, "covariance": covariance, "radii": radii(known, cfg.k)}

        self.statistics = cached(f"statistics_{self._key(self.real)}_{cfg.k}", build)
        floor, arrays = self._read(cfg.floor, cfg.n)
        n, how = len(arrays["features"]), f"{cfg.k}_{cfg.kid_subsets}x{cfg.kid_subset_size}"
        key = f"floors_{self._key(self.real)}_{floor.digest}_{n}_{how}"
        floors = cached(key, lambda: {name: np.asarray(value) for name, value in self._numbers(**arrays).items()})
        self.floors = self._tagged({name: float(value) for name, value in floors.items()}, n, "_floor", of=floor.name)

    def _key(self, real: metric_tags.Real) -> str:
        return f"{self.features.name}-{self.weights.digest}_{real.digest}"

    def _read(self, split: str, most: int | None = None) -> tuple[metric_tags.Real, Arrays]:
        """Which images a split has; features and logits of them, or of `most`, drawn with a fixed key, in the order
        of the draw. Kept in the cache, in the order of the split."""
        batches = self.context.batches
        real = metric_tags.real(split, evaluator.rows(batches(split)))
        n = len(real.label)
        chosen = np.arange(n) if most is None else np.random.default_rng(0).permutation(n)[:most]
        extract = jax.jit(self.features.apply)

        def build() -> Arrays:
            size, layout = self.context.batch_size, next(batches(split))["image"].sharding
            images = (image for part, _ in evaluator.rows(batches(split)) for image in part)
            drawn = itertools.compress(images, np.isin(np.arange(n), chosen))

            def step(part: list[np.ndarray]) -> tuple[jax.Array, jax.Array]:
                padded = np.stack(part)[np.arange(size) % len(part)]
                return extract(self.weights.variables, jax.device_put(padded, layout))

            found = evaluator.results(step, iter(lambda: list(itertools.islice(drawn, size)), []))
            arrays = (np.concatenate(parts)[: len(chosen)] for parts in zip(*found, strict=True))
            return dict(zip(("features", "logits"), arrays, strict=True))

        arrays, place = cached(f"features_{self._key(real)}_{len(chosen)}of{n}", build), np.argsort(np.argsort(chosen))
        return real, {name: x[place] for name, x in arrays.items()}

    def tag(self, name: str, n_fake: int, **facts: object) -> str:
        return metric_tags.tag(name, **self.real.facts(n_fake), **self.features.facts(self.weights), **facts)

    def measured(self, features: np.ndarray, logits: np.ndarray, **facts: str) -> dict[str, float]:
        """Tag -> value for features [N, F] and logits [N, K]."""
        return self._tagged(self._numbers(features, logits), len(features), **facts)

    def _numbers(self, features: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        cfg, others, known = self.cfg, self.arrays["features"], self.statistics
        shares = precision_recall(features, others, cfg.k, known["radii"])
        kernel = kid(features, others, subsets=cfg.kid_subsets, subset_size=self._subset(len(features)))
        distance = fid(features, known["mean"], known["covariance"])
        return {"fid": distance, "kid": kernel, "inception_score": inception_score(logits), **shares._asdict()}

    def _subset(self, n_fake: int) -> int:
        return min(self.cfg.kid_subset_size, n_fake, len(self.arrays["features"]))

    def _tagged(self, values: dict[str, float], n_fake: int, suffix: str = "", **facts: str) -> dict[str, float]:
        how: dict[str, dict[str, object]] = {name: {"k": self.cfg.k} for name in Shares._fields}
        how["kid"] = {"subsets": f"{self.cfg.kid_subsets}x{self._subset(n_fake)}"}
        return {self.tag(name + suffix, n_fake, **how.get(name, {}), **facts): value for name, value in values.items()}

    def add_classes(self, report: evaluator.Report, predicted: np.ndarray, label: np.ndarray) -> None:
        """The shares of classes of the samples, [N] each, and how well the classifier tells them."""
        info: Any = self.context.info
        share, true = (np.bincount(x, minlength=info.num_classes) / len(x) for x in (predicted, self.real.label))
        values = {"class_share_min": share.min(), "class_share_max": share.max()}
        if label[0] >= 0:
            values["as_asked"] = (predicted == label).mean()
        report.scalars |= {
            self.tag(name, len(predicted), **self.context.facts(self.cfg)): float(value)
            for name, value in values.items()
        }
        right = (self.arrays["logits"].argmax(1) == self.real.label).mean()
        report.scalars[self.tag("classifier_accuracy", 0)] = float(right)
        names = info.class_names or tuple(map(str, range(info.num_classes)))
        heights = {"samples": share, self.cfg.split: true}
        report.images["class_shares"] = plots.bars(heights, names, axis="share", title="Classes of samples")
        if rare := [name for name, x, y in zip(names, share, true, strict=True) if x < RARE * y]:
            report.warnings.append(f"mode collapse: samples hardly show the classes {', '.join(rare)}")
