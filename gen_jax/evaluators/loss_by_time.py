"""The loss of a diffusion or a flow over the time of its noise: where the network errs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.core import ops
from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.metrics.moments import exact_sum
from gen_jax.models import abilities_base as abilities
from gen_jax.runs import metric_tags, plots
from gen_jax.settings import Few


class Config(evaluator.EvalConfig):
    """What is averaged."""

    bins: Few = 10
    """Equal parts of the time from 0, the data, to 1, the noise."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`loss_at@time=0.05`, in the unit of the model's `loss`, for the middle of each bin: the mean over the split.

    Each example has one time in each bin, uniform in it, and noise of its own at each of them. The picture
    `loss_by_time` has the bins as a curve.

    Raises:
      ConfigError: the model has no loss at a time.
    """
    model, name = context.model, type(context.model).__name__
    able = isinstance(model, abilities.HasTimedLoss)
    evaluator.require(able, "loss_by_time", f"a model with a loss at each time, which {name} has not")

    @jax.jit
    def step(state: State, batch: dict, rng: jax.Array, i: jax.Array) -> Any:
        time_rng, noise_rng = jax.random.split(jax.random.fold_in(rng, i))
        within = ops.uniform(ops.row_keys(time_rng, batch["index"]), batch["index"].shape)
        return model.timed_loss(state, batch, (i + within) / cfg.bins, noise_rng), batch["valid"]

    def evaluate(state: State) -> evaluator.Report:
        each: list[list[np.ndarray]] = [[] for _ in range(cfg.bins)]
        for batch in context.batches(cfg.split):
            bins = (jnp.int32(i) for i in range(cfg.bins))
            losses = evaluator.results(lambda i: step(state, batch, context.rng, i), bins)  # noqa: B023
            for found, (loss, valid) in zip(each, losses, strict=True):
                found.append(loss[valid])
        means = np.array([exact_sum(loss := np.concatenate(found)) / len(loss) for found in each])
        times = (np.arange(cfg.bins) + 0.5) / cfg.bins
        log: Any = "y" if (means > 0).all() else ""
        title, axes = f"Loss by time of {cfg.split}", ("time: 0 is the data, 1 the noise", "loss")
        picture = plots.lines({"loss": (times, means)}, title=title, axes=axes, log=log)
        tags = [metric_tags.tag("loss_at", time=f"{time:.4g}") for time in times]
        return evaluator.Report(dict(zip(tags, means.tolist(), strict=True)), {"loss_by_time": picture})

    def trace(state: State, batch: dict, rng: jax.Array) -> Any:
        return step(state, batch, rng, jnp.int32(0))

    return evaluator.Evaluator(evaluate, trace, evaluator.named("loss_at"))
