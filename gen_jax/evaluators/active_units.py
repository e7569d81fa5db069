"""Latent units that carry information about the input."""

import jax
import numpy as np

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.metrics.moments import Moments
from gen_jax.settings import Fraction, PositiveFloat


class Config(evaluator.EvalConfig):
    """When a unit counts as active."""

    threshold: PositiveFloat = 0.01
    """Variance of a unit's posterior mean over the data above which it is active."""
    few: Fraction = 0.1
    """A smaller share of active units is warned about."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`active_units`: how many units u have Var_x(E_{q(u|x)}[u]) > threshold (Burda et al. 2016, section 5.2).

    Also `active_units_share` of all units. Warns when none or few are active.
    """
    evaluator.require_vectors(context.model, "active_units")

    @jax.jit
    def encode(state, batch):
        return context.model.encode(state, batch), batch["valid"]

    def evaluate(state: State) -> evaluator.Report:
        moments = Moments()
        for means, valid in evaluator.results(lambda batch: encode(state, batch), context.batches(cfg.split)):
            moments = moments.update(means[valid])
        active = np.atleast_1d(moments.variance) > cfg.threshold
        report = evaluator.Report({"active_units": float(active.sum()), "active_units_share": float(active.mean())})
        if not active.any() or active.mean() < cfg.few:
            report.warnings.append(f"active units: {active.sum()} of {active.size}")
        return report

    names = evaluator.named("active_units", "active_units_share")
    return evaluator.Evaluator(evaluate, lambda state, batch, rng: encode(state, batch), names)
