"""How far samples are from real images: FID, KID, Inception Score, precision and recall, with their floors."""

import hashlib
from typing import Annotated, Literal

import jax
import numpy as np
from pydantic import Field

from gen_jax import pictures, protocol
from gen_jax.cache import Arrays, cached
from gen_jax.evaluators import base
from gen_jax.features import Weights, choice
from gen_jax.metrics.frechet import fid
from gen_jax.metrics.inception_score import inception_score
from gen_jax.metrics.kid import kid
from gen_jax.metrics.precision_recall import precision_recall
from gen_jax.settings import Positive
from gen_jax.state import State


class Config(base.EvalConfig):
    """n: samples. floor: the split whose images are measured as if they were samples, n of them at most.

    k: the neighbour that a ball of precision and recall reaches to. kid_subsets, kid_subset_size: as `metrics.kid`
    says. when: at the end; `best` can name a metric only where it is `always`.
    """

    n: Positive = 10_000
    floor: str = "train"
    features: choice.Config = choice.Config()
    k: Positive = 3
    kid_subsets: Positive = 100
    kid_subset_size: Annotated[int, Field(ge=2)] = 1000
    when: Literal["always", "end"] = "end"

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", self.floor, self.split)


def from_config(cfg: Config, context: base.Context) -> base.Evaluator:
    """`fid`, `kid`, `inception_score`, `precision`, `recall` of `n` samples against the whole split.

    Each name says how it was measured (`gen_jax.protocol`): n_real, n_fake, split, features and their hash, resize, a
    hash of the real images. Beside each stands its `_floor`: real images in place of the samples.
    With a classifier also `class_share_min` and `class_share_max` of the samples and the picture `class_shares`, and of
    class-conditional models `as_asked`, the share that is classified as asked.

    Raises:
      ConfigError: the model does not sample images, or floor and split are one.
    """
    base.require(cfg.floor != cfg.split, "generation: floor", f"another split than {cfg.split}")
    features = base.choose_features(cfg.features, context, "generation", cfg.split)
    sample = base.sampler(
        context, "generation", lambda variables, image, asked: (*features.apply(variables, image), asked)
    )
    base.require(cfg.n > cfg.k, "generation", f"n above k = {cfg.k}, not {cfg.n}")
    extract = jax.jit(features.apply)
    loaded: list[Weights] = []
    real: dict[str, Arrays] = {}
    floors: dict[str, float] = {}

    def of_split(split: str) -> Arrays:
        """Features, logits and labels of a split's images and their hash; kept in the cache."""
        rows = base.results(lambda batch: (batch["image"], batch["valid"]), context.batches(split), every=4)
        pixels = hashlib.sha256()
        for image, valid in rows:
            pixels.update(f"{image.shape[1:]}".encode() + image[valid].tobytes())

        def build() -> Arrays:
            def step(batch):
                label = batch["label"] if "label" in batch else batch["index"]
                return (*extract(loaded[0].variables, batch["image"]), label), batch["valid"]

            rows = [[x[valid] for x in found] for found, valid in base.results(step, context.batches(split))]
            parts = (np.concatenate(part) for part in zip(*rows, strict=True))
            return dict(zip(("features", "logits", "label"), parts, strict=True))

        key = pixels.hexdigest()[:12]
        return cached(f"features_{features.name}-{loaded[0].digest}_{key}", build) | {"pixels": np.array(key)}

    def facts(n_fake: int) -> dict[str, object]:
        others = real[cfg.split]
        of_features = dict(features=f"{features.name}-{loaded[0].digest}", resize=features.resize)
        return dict(
            n_real=len(others["features"]), n_fake=n_fake, split=cfg.split, **of_features, data=others["pixels"]
        )

    def measured(arrays: Arrays, suffix: str, **extra: str) -> dict[str, float]:
        others, found = real[cfg.split], arrays["features"]
        size = min(cfg.kid_subset_size, len(found), len(others["features"]))
        precision, recall = precision_recall(found, others["features"], cfg.k)
        kernel = kid(found, others["features"], subsets=cfg.kid_subsets, subset_size=size)
        values = {
            "fid": (fid(found, others["features"]), {}),
            "kid": (kernel, {"subsets": f"{cfg.kid_subsets}x{size}"}),
            "inception_score": (inception_score(arrays["logits"]), {}),
            "precision": (precision, {"k": cfg.k}),
            "recall": (recall, {"k": cfg.k}),
        }
        return {
            protocol.tag(name + suffix, **facts(len(found)), **more, **extra): v for name, (v, more) in values.items()
        }

    def prepare() -> None:
        loaded.append(features.load())
        for split in (cfg.split, cfg.floor):
            real[split] = of_split(split)
        arrays = real[cfg.floor]
        chosen = np.random.default_rng(0).permutation(len(arrays["features"]))[: cfg.n]
        floors.update(measured({name: arrays[name][chosen] for name in ("features", "logits")}, "_floor", of=cfg.floor))

    def classes_of(report: base.Report, predicted: np.ndarray, asked: np.ndarray) -> None:
        classes, others = context.info.num_classes, real[cfg.split]
        share, true = (np.bincount(x, minlength=classes) / len(x) for x in (predicted, others["label"]))
        values = {"class_share_min": share.min(), "class_share_max": share.max()}
        if asked[0] >= 0:
            values["as_asked"] = (predicted == asked).mean()
        report.scalars |= {protocol.tag(name, **facts(len(predicted))): float(value) for name, value in values.items()}
        right = (others["logits"].argmax(1) == others["label"]).mean()
        report.scalars[protocol.tag("classifier_accuracy", **facts(0))] = float(right)
        names = context.info.class_names or tuple(map(str, range(classes)))
        heights = {"samples": share, cfg.split: true}
        report.images["class_shares"] = pictures.bars(heights, names, axis="share", title="classes of samples")

    def evaluate(state: State) -> base.Report:
        if not floors:
            prepare()
        found, logits, asked = sample(state, cfg.n, loaded[0].variables)
        report = base.Report(measured({"features": found, "logits": logits}, "") | floors)
        if features.name == "classifier":
            classes_of(report, logits.argmax(1), asked)
        return report

    return evaluate
