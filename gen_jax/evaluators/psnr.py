"""Peak signal-to-noise ratio of reconstructions."""

import jax
import numpy as np

from gen_jax.evaluators import base
from gen_jax.metrics.moments import exact_sum
from gen_jax.metrics.psnr import psnr
from gen_jax.state import State


class Config(base.EvalConfig):
    """No fields of its own."""


def from_config(cfg: Config, context: base.Context) -> base.Evaluator:
    """`psnr`: each example's own PSNR in dB on 0 .. 255, averaged over the split (not the PSNR of the mean error).

    Equal images count as `metrics.psnr.CAP` dB.
    """
    base.require(context.info.kind == "image", "psnr", f"images, the data are {context.info.kind}")
    reconstruct = base.reconstructor(context.model, "psnr")

    @jax.jit
    def step(state, batch, rng):
        return psnr(reconstruct(state, batch, rng), batch["image"]), batch["valid"]

    def evaluate(state: State) -> base.Report:
        rows = base.results(lambda batch: step(state, batch, context.rng), context.batches(cfg.split))
        values = np.concatenate([row[valid] for row, valid in rows])
        return base.Report({"psnr": exact_sum(values) / len(values)})

    return base.Evaluator(evaluate, step, base.named("psnr"))
