"""Whether pictures of coloured shapes show what their captions say: they are read back (`core.drawings`)."""

import functools
from typing import Any

import numpy as np

from gen_jax.core import drawings
from gen_jax.core.captions import Captions
from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.models import base as models
from gen_jax.parallel.processes import gather
from gen_jax.runs import grids, metric_tags
from gen_jax.settings import Positive

NAMES = ("colour", "count", "position", "shape")


class Config(evaluator.SampledConfig):
    """What is drawn."""

    n: Positive = 256
    """Samples, one for the caption of each of the first examples."""
    shown: Positive = 36
    """Samples in the picture."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`colour`, `count`, `position`, `shape`: the shares of samples that are as their captions say (`drawings.judge`).

    `_chance` is the same of the split's own pictures, each held against the caption of the next one. The picture
    `captions` shows the first samples.

    Raises:
      ConfigError: the model reads no captions, or the data are not of the source shapes.
    """
    model, decode = context.model, context.decode_text
    able = isinstance(model, models.Samples) and bool(context.vocab)
    evaluator.require(able, "captions", f"a model of captions, not {type(model).__name__}")
    ours = decode is not None and decode(np.arange(context.info.vocab_size)) == " ".join(drawings.words())
    evaluator.require(ours, "captions", "captions of the source shapes")
    evaluator.require("captions" not in cfg.sampling, "captions: sampling.captions", "none: they are the data's")
    assert decode is not None
    options: Any = context.options(cfg)
    assert isinstance(options, Captions)

    @functools.cache
    def asked() -> tuple[Any, list[str], np.ndarray]:
        """The compiled sampler, the captions and the pictures of the first examples."""
        batches = (
            gather({name: batch[name] for name in ("image", "caption", "valid")})
            for batch in context.batches(cfg.split)
        )
        found = evaluator.first(((batch, batch["valid"]) for batch in batches), cfg.n)
        captions = tuple(map(tuple, found["caption"].tolist()))
        draw = models.sampler(
            model,
            len(captions),
            options.model_copy(update={"captions": captions}),
            lambda done, steps: context.poll(),
        )
        return draw, [decode(row) for row in found["caption"]], found["image"]

    def shares(images: np.ndarray, captions: list[str]) -> dict[str, float]:
        scenes = [drawings.scenes()[caption] for caption in captions]
        right = [drawings.judge(*pair) for pair in zip(scenes, drawings.read(images), strict=True)]
        return {name: float(np.mean([one[name] for one in right])) for name in NAMES}

    def evaluate(state: State) -> evaluator.Report:
        draw, captions, real = asked()
        images = gather(draw(state, context.rng))
        facts = {"n_fake": len(images), **context.facts(cfg)}
        scalars = {metric_tags.tag(name, **facts): share for name, share in shares(images, captions).items()}
        chance = shares(np.roll(real, 1, axis=0), captions)
        scalars |= {metric_tags.tag(f"{name}_chance", n_real=len(real)): share for name, share in chance.items()}
        labels = grids.Labels(f"Samples of captions of {cfg.split}", captions=captions[: cfg.shown])
        return evaluator.Report(scalars, {"captions": grids.grid(images[: cfg.shown], labels)})

    names = [name + suffix for name in NAMES for suffix in ("", "_chance")]
    return evaluator.Evaluator(
        evaluate, lambda state, batch, rng: model.sample(state, rng, cfg.n, options), evaluator.named(*names), cfg.n
    )
