"""Latent units that carry information about the input."""

import jax
import numpy as np

from gen_jax.evaluators import base
from gen_jax.metrics.moments import Moments
from gen_jax.settings import Fraction, PositiveFloat
from gen_jax.state import State


class Config(base.EvalConfig):
    """threshold: variance of a unit's posterior mean over the data above which it is active.
    few: a smaller share of active units is warned about."""

    threshold: PositiveFloat = 0.01
    few: Fraction = 0.1


def from_config(cfg: Config, context: base.Context) -> base.Evaluator:
    """`active_units`: how many units u have Var_x(E_{q(u|x)}[u]) > threshold (Burda et al. 2016, section 5.2).

    Also `active_units_share` of all units. Warns when none or few are active.
    """
    base.require_vectors(context.model, "active_units")

    @jax.jit
    def encode(state, batch):
        return context.model.encode(state, batch), batch["valid"]

    def evaluate(state: State) -> base.Report:
        moments = Moments()
        for means, valid in base.results(lambda batch: encode(state, batch), context.batches(cfg.split)):
            moments = moments.update(means[valid])
        active = np.atleast_1d(moments.variance) > cfg.threshold
        report = base.Report({"active_units": float(active.sum()), "active_units_share": float(active.mean())})
        if not active.any() or active.mean() < cfg.few:
            report.warnings.append(f"active units: {active.sum()} of {active.size}")
        return report

    names = base.named("active_units", "active_units_share")
    return base.Evaluator(evaluate, lambda state, batch, rng: encode(state, batch), names)
