"""Peak signal-to-noise ratio of reconstructions."""

import jax
import numpy as np

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.metrics.moments import exact_sum
from gen_jax.metrics.psnr import psnr


class Config(evaluator.EvalConfig):
    """No fields of its own."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`psnr`: each example's own PSNR in dB on 0 .. 255, averaged over the split (not the PSNR of the mean error).

    Equal images count as `metrics.psnr.CAP` dB.
    """
    evaluator.require(context.info.kind == "image", "psnr", f"images, the data are {context.info.kind}")
    reconstruct = evaluator.reconstructor(context.model, "psnr")

    @jax.jit
    def step(state, batch, rng):
        return psnr(reconstruct(state, batch, rng), batch["image"]), batch["valid"]

    def evaluate(state: State) -> evaluator.Report:
        rows = evaluator.results(lambda batch: step(state, batch, context.rng), context.batches(cfg.split))
        values = np.concatenate([row[valid] for row, valid in rows])
        return evaluator.Report({"psnr": exact_sum(values) / len(values)})

    return evaluator.Evaluator(evaluate, step, evaluator.named("psnr"))
