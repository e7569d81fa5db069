"""How many modes of a known mixture the samples reach."""

import math

import jax
import numpy as np

from gen_jax.evaluators import base
from gen_jax.evaluators.pictures import beside
from gen_jax.metrics.modes import mode_counts, ring_centres
from gen_jax.sampling import SampleOptions
from gen_jax.settings import Fraction, Positive, PositiveFloat
from gen_jax.state import State


class Config(base.EvalConfig):
    """modes, radius, sigma: of the ring of Gaussians that the data are. n: samples drawn. within, min_share: as
    `metrics.modes.mode_counts` says. points: in the picture, of each kind."""

    modes: Positive
    radius: PositiveFloat
    sigma: PositiveFloat
    n: Positive = 2500
    within: PositiveFloat = 3.0
    min_share: Fraction = 0.01
    points: Positive = 1000


def from_config(cfg: Config, context: base.Context) -> base.Evaluator:
    """`modes` reached, `near_share` of samples on one, `mode_kl` in nats from uniform; a picture beside real points.

    Warns where the split's own points do not lie on the ring that the config names.
    """
    found = context.info.kind == "vector" and context.info.shape == (2,)
    base.require(found, "modes", f"vectors of 2 dimensions, the data are {context.info.kind} {context.info.shape}")
    centres = ring_centres(cfg.modes, cfg.radius)

    @jax.jit
    def sample(state, rng):
        return context.model.sample(state, rng, cfg.n, SampleOptions())

    def count(points: np.ndarray) -> dict[str, float]:
        return mode_counts(points, centres, cfg.sigma, within=cfg.within, min_share=cfg.min_share)

    def evaluate(state: State) -> base.Report:
        batches = ((base.read(batch["vector"]), base.read(batch["valid"])) for batch in context.batches(cfg.split))
        real = base.first(batches, cfg.points)
        made = base.read(sample(state, context.rng))
        scalars = count(made)
        report = base.Report({name: value for name, value in scalars.items() if math.isfinite(value)})
        report.images["modes"] = beside(real, made[: cfg.points])
        if (share := count(real)["near_share"]) < 0.5:
            report.warnings.append(f"modes: only {share:.0%} of {cfg.split} lie on this ring: check radius and sigma")
        return report

    return evaluate
