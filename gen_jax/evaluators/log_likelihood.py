"""Importance-weighted log-likelihood of a split."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.metrics import bits
from gen_jax.metrics.moments import exact_sum
from gen_jax.models import base as models
from gen_jax.settings import Count, Steps


class Config(evaluator.EvalConfig):
    """How well log p(x) is estimated."""

    num_samples: Steps = 100
    """Importance samples an example (k)."""
    max_examples: Count = 0
    """Only that many of the split, the first; 0 = all."""
    batch: Count = 0
    """Rows at a time; 0 = the evaluation batch. The model itself cuts the samples into chunks."""


def _parts(batches: Iterator[dict], n: int, take) -> Iterator[dict]:
    for batch in batches:
        for i in range(n):
            yield batch if n == 1 else take(batch, i)


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """The mean over examples of log 1/k sum_i p(x, z_i) / q(z_i | x) (Burda et al. 2016, eq. 8), a lower bound.

    Scalars: `log_likelihood` in nats an example; `log_likelihood_stderr`, the standard error of that mean over
    examples; `log_likelihood_bits_per_dim` where the model's pixels are discrete. A row that is not finite is counted
    in a warning and makes the mean not finite.

    Raises:
      ConfigError: the model has no `log_prob`, or one of a likelihood that does not sum to 1.
    """
    able = isinstance(context.model, models.HasLogProb)
    evaluator.require(able, "log_likelihood", f"a model with log_prob, which {type(context.model).__name__} has not")
    normalised = getattr(context.model, "normalised_likelihood", True)
    evaluator.require(
        normalised, "log_likelihood", "a normalised likelihood, such as bernoulli; bernoulli_grey is none"
    )
    size = cfg.batch or context.batch_size
    evaluator.require(context.batch_size % size == 0, "log_likelihood: batch", f"a divisor of {context.batch_size}")
    parts = context.batch_size // size

    @jax.jit
    def log_prob(state, batch, rng):
        return context.model.log_prob(state, batch, rng, cfg.num_samples), batch["index"], batch["valid"]

    @jax.jit
    def take(batch, i):
        # every parts-th row: each device keeps its share
        return jax.tree.map(lambda x: jnp.take(x.reshape(size, parts, *x.shape[1:]), i, axis=1), batch)

    def wanted(batches: Iterator[dict]) -> Iterator[dict]:
        left = cfg.max_examples or math.inf
        while left > 0 and (batch := next(batches, None)) is not None:
            yield batch
            left -= context.batch_size

    def evaluate(state: State) -> evaluator.Report:
        batches = _parts(wanted(iter(context.batches(cfg.split))), parts, take)
        # read each one before the next starts: a signal must not wait behind minutes of queued work
        rows = list(evaluator.results(lambda batch: log_prob(state, batch, context.rng), batches, every=1))
        values, index, valid = (np.concatenate(part) for part in zip(*rows, strict=True))
        order = np.argsort(index[valid], kind="stable")[: cfg.max_examples or None]
        return _report(values[valid][order].astype(np.float64), context)

    names = ["log_likelihood", "log_likelihood_stderr"]
    if getattr(context.model, "discrete_likelihood", False):
        names.append("log_likelihood_bits_per_dim")

    def trace(state: State, batch: dict, rng: jax.Array) -> Any:
        return log_prob(state, take(batch, 0) if parts > 1 else batch, rng)

    return evaluator.Evaluator(evaluate, trace, evaluator.named(*names))


def _report(values: np.ndarray, context: evaluator.Context) -> evaluator.Report:
    report = evaluator.Report()
    mean = exact_sum(values) / len(values)
    report.scalars["log_likelihood"] = mean
    if bad := int((~np.isfinite(values)).sum()):
        report.warnings.append(f"log_likelihood: {bad} of {len(values)} examples are not finite")
    elif len(values) > 1:
        report.scalars["log_likelihood_stderr"] = float(values.std(ddof=1) / math.sqrt(len(values)))
    if getattr(context.model, "discrete_likelihood", False):
        report.scalars["log_likelihood_bits_per_dim"] = bits.bits(-mean, math.prod(context.info.shape))
    return report
