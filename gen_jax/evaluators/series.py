"""Samples of a model of series beside real ones, as curves."""

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.models import base as models
from gen_jax.parallel.processes import gather
from gen_jax.runs import plots
from gen_jax.settings import Positive


class Config(evaluator.SampledConfig):
    """What is drawn."""

    n: Positive = 3
    """Series of each kind."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """A picture `series`; `sample_mean` and `sample_std` over all values of the samples, and those of the split's."""
    evaluator.require(context.info.kind == "vector", "series", f"vectors, the data are {context.info.kind}")
    samples = isinstance(context.model, models.Samples)
    evaluator.require(samples, "series", f"a model that samples, not {type(context.model).__name__}")

    sample = evaluator.drawer(context, cfg, context.batch_size)

    def evaluate(state: State) -> evaluator.Report:
        batches = ((gather(batch["vector"]), gather(batch["valid"])) for batch in context.batches(cfg.split))
        kinds = {
            "real": evaluator.first(batches, context.batch_size),
            "sample": gather(sample(state, context.rng)),
        }
        report = evaluator.Report()
        shown = {}
        for kind, rows in kinds.items():
            scalars = {f"{kind}_mean": float(rows.mean()), f"{kind}_std": float(rows.std())}
            report.scalars |= context.tagged(cfg, scalars) if kind == "sample" else scalars
            shown[kind] = rows[: cfg.n]
        title = f"Series of {cfg.split} and samples"
        report.images["series"] = plots.panels(shown, title=title, axes=("step", "value"))
        return report

    names = evaluator.named(*(f"{kind}_{what}" for kind in ("real", "sample") for what in ("mean", "std")))
    return evaluator.Evaluator(evaluate, evaluator.draws(context, cfg), names)
