"""How fast the model samples, and how often it calls its networks for that."""

import statistics
import time
from typing import Any, Literal

import jax

from gen_jax.core.network_calls import counted
from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.models import base as models
from gen_jax.parallel.processes import agree
from gen_jax.runs import metric_tags
from gen_jax.settings import Few, Positive


class Config(evaluator.SampledConfig):
    """What is drawn."""

    n: Positive = 64
    """Samples drawn at once."""
    repeats: Few = 3
    """Draws that are timed, after one that compiles; their median counts."""
    when: Literal["always", "end"] = "end"
    """At each evaluation, or once at the end."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`network_evaluations` of a sample, and the timing `samples_per_s`.

    A network that is called on B rows is evaluated B times; all networks count. Guidance and solvers that call the
    network twice a step count twice, a token that is drawn from a cache counts once. A timing is not in metrics.jsonl
    but in perf.jsonl; its tag names the batch and the devices.

    Raises:
      ConfigError: the model does not sample.
    """
    model = context.model
    evaluator.require(isinstance(model, models.Samples), "speed", f"a model that samples, not {type(model).__name__}")
    options, draw = context.options(cfg), evaluator.drawer(context, cfg, cfg.n)

    def seconds(state: State) -> float:
        start = time.perf_counter()
        jax.block_until_ready(draw(state, context.rng))
        return time.perf_counter() - start

    def evaluate(state: State) -> evaluator.Report:
        calls = network_evaluations(context, options, state)
        seconds(state)
        rate = cfg.n / statistics.median(seconds(state) for _ in range(cfg.repeats))
        device = jax.devices()[0].device_kind.replace(",", " ")
        facts = {"batch": cfg.n, "devices": f"{jax.device_count()} x {device}"} | context.facts(cfg)
        timings = {metric_tags.tag("samples_per_s", **facts): rate}
        return evaluator.Report(context.tagged(cfg, {"network_evaluations": calls}), timings=timings)

    def trace(state: State, batch: dict, rng: jax.Array) -> Any:
        return model.sample(state, rng, cfg.n, options)

    return evaluator.Evaluator(evaluate, trace, evaluator.named("network_evaluations"), cfg.n)


def network_evaluations(context: evaluator.Context, options: Any, state: State) -> float:
    """Of one sample with these options."""
    with counted() as count:
        draw = models.sampler(context.model, 1, options, lambda done, steps: context.poll())
        jax.block_until_ready(draw(state, context.rng))
    return float(agree(count.rows))
