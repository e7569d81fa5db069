"""Images of two unpaired sets, each translated to the other and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.metrics.moments import exact_sum
from gen_jax.models import base as models
from gen_jax.runs import grids
from gen_jax.settings import Positive

DIRECTIONS = {"a2b": ("image_a", "image_b", "b2a"), "b2a": ("image_b", "image_a", "a2b")}  # from, to, and back


class Config(evaluator.EvalConfig):
    """What is shown."""

    n: Positive = 8
    """Columns of each picture."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """Mean absolute errors of the split as shares of the range 0 .. 255, and a picture of each direction.

    `cycle_error_a`, `cycle_error_b`: of an image from its translation back. `error_a2b`, `error_b2a`: of a translation
    from the truth, where the set has one (`Info.aligned`, splits other than train). The pictures have a column an
    image: it, its translation, the truth where there is one, and its translation back.
    """
    model = context.model
    able = isinstance(model, models.TranslatesImages)
    evaluator.require(able, "image_translation", f"a model that translates images, not {type(model).__name__}")
    evaluator.require(
        context.info.kind == "unpaired", "image_translation", f"two sets, the data are {context.info.kind}"
    )
    known = context.info.aligned and "train" not in cfg.split

    @jax.jit
    def step(state: State, batch: dict) -> tuple[dict[str, Any], dict[str, Any], Any]:
        errors, shown = {}, {}
        for direction, (source, target, back) in DIRECTIONS.items():
            image = batch[source]
            made = model.translate_images(state, image, direction)
            again = model.translate_images(state, made, back)
            errors[f"cycle_error_{direction[0]}"] = _error(again, image)
            if known:
                errors[f"error_{direction}"] = _error(made, batch[target])
            shown[direction] = (image, made, batch[target], again) if known else (image, made, again)
        return errors, shown, batch["valid"]

    def evaluate(state: State) -> evaluator.Report:
        values: dict[str, list[np.ndarray]] = {}
        kept = []
        for errors, shown, valid in evaluator.results(
            lambda batch: step(state, batch), context.batches(cfg.split), every=4
        ):
            kept += [(shown, valid)] if len(kept) * context.batch_size < cfg.n else []
            for name, error in errors.items():
                values.setdefault(name, []).append(error[valid])
        rows = evaluator.first(kept, cfg.n)
        images = {
            direction: grids.pairs(*parts, labels=_labels(direction, cfg.split, known), columns=cfg.n)
            for direction, parts in rows.items()
        }
        joined = {name: np.concatenate(parts) for name, parts in values.items()}
        return evaluator.Report({name: exact_sum(value) / len(value) for name, value in joined.items()}, images)

    return evaluator.Evaluator(evaluate, lambda state, batch, rng: step(state, batch), lambda found: found[0])


def _labels(direction: str, split: str, known: bool) -> grids.Labels:
    """`known`: whether the truth is shown."""
    a, _, b = direction
    rows = (a, f"translated to {b}", *([f"true {b}"] if known else []), f"back to {a}")
    return grids.Labels(f"Translations from {a} to {b}, {split}", rows)


def _error(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean of |x - y| / 255 over pixels and channels: uint8 [B, H, W, C] twice -> [B]."""
    return jnp.abs(x.astype(jnp.float32) - y.astype(jnp.float32)).mean((1, 2, 3)) / 255
