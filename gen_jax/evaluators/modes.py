"""How many modes of a known mixture the samples reach."""

import math

import numpy as np

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.evaluators.pictures import beside
from gen_jax.features import digest
from gen_jax.metrics.modes import mode_counts
from gen_jax.models.base import Samples
from gen_jax.parallel.processes import gather
from gen_jax.runs import metric_tags
from gen_jax.settings import Fraction, Positive, PositiveFloat


class Config(evaluator.SampledConfig):
    """When a mode counts as found."""

    n: Positive = 2500
    """Samples drawn."""
    within: PositiveFloat = 3.0
    """Standard deviations around a mode in which a sample counts as its own."""
    min_share: Fraction = 0.01
    """Share of a mode's expected samples that must be reached to count it."""
    points: Positive = 1000
    """Points of each kind in the picture."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`modes` reached, `near_share` of samples on one, `mode_kl` in nats from uniform; a picture beside real points.

    Their tags name the mixture by the hash of its centres and sigma; no real data enter them. A warning says how many
    modes were reached where it was not all, although most samples lie on one.
    """
    mixture = context.info.mixture
    evaluator.require(mixture is not None, "modes", "data whose mixture is known, as of the source gaussians")
    assert mixture
    centres = np.array(mixture.centres)
    evaluator.require(cfg.min_share * len(centres) <= 0.5, "modes: min_share", f"at most half of 1 / {len(centres)}")
    evaluator.require(isinstance(context.model, Samples), "modes", "a model that samples")
    reach = {"within": cfg.within, "min_share": cfg.min_share}
    facts = {"n_fake": cfg.n, "mixture": digest([centres, mixture.sigma])[:12], **reach, **context.facts(cfg)}

    options, sample = context.options(cfg), evaluator.drawer(context, cfg, cfg.n)

    def evaluate(state: State) -> evaluator.Report:
        batches = ((gather(batch["vector"]), gather(batch["valid"])) for batch in context.batches(cfg.split))
        real = evaluator.first(batches, cfg.points)
        made = gather(sample(state, context.rng))
        scalars = mode_counts(made, centres, mixture.sigma, **reach)
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        report = evaluator.Report({metric_tags.tag(name, **facts): value for name, value in finite.items()})
        if scalars["modes"] < len(centres) and scalars["near_share"] > 0.5:
            report.warnings.append(f"mode collapse: samples reach {scalars['modes']:.0f} of {len(centres)} modes")
        title = f"Samples over data of {cfg.split}: {scalars['modes']:.0f} of {len(centres)} modes"
        report.images["modes"] = beside(real, made[: cfg.points], title)
        return report

    names = evaluator.named("modes", "near_share", "mode_kl")
    return evaluator.Evaluator(
        evaluate, lambda state, batch, rng: context.model.sample(state, rng, cfg.n, options), names, cfg.n
    )
