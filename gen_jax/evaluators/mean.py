"""Every metric of the model over a whole split, as sum(total) / sum(weight)."""

import math
from typing import Any

import jax
import numpy as np

from gen_jax.core.state import Mean, State
from gen_jax.evaluators import evaluator
from gen_jax.metrics import bits
from gen_jax.metrics.moments import exact_sum
from gen_jax.models import base as models
from gen_jax.models.abilities_base import HasBoundParts
from gen_jax.settings import NonNegative, Switch


class Config(evaluator.EvalConfig):
    """Of the model's own metrics."""

    carried: Switch = False
    """A recurrent model continues from batch to batch.

    Each of the `eval_batch_size` rows starts cold on its own stretch of the text, so the number depends on that size.
    """
    collapse_kl: NonNegative = 0.1
    """Nats an example; a smaller `kl` is reported as posterior collapse."""


def _plain(context: evaluator.Context):
    """(state, batches) -> the means of each, and what is traced."""
    step = jax.jit(context.model.eval_step)

    def steps(state, batches):
        yield from evaluator.results(lambda batch: step(state, batch, context.rng), batches)

    return steps, step


def _carried(context: evaluator.Context):
    model = context.model
    init, step = jax.jit(model.init_carry), jax.jit(model.eval_carried)

    def steps(state, batches):
        carry = None

        def advance(batch):
            nonlocal carry
            carry = init(batch) if carry is None else carry
            means, carry = step(state, batch, carry, context.rng)
            return means

        yield from evaluator.results(advance, batches)

    return steps, lambda state, batch, rng: step(state, batch, init(batch), rng)[0]


def totals(rows: list[dict[str, Mean]]) -> dict[str, tuple[float, float]]:
    """(sum of totals, sum of weights) of each metric, exact in float64."""
    if not rows:
        return {}
    joined = {name: [getattr(row[name], field) for field in ("total", "weight") for row in rows] for name in rows[0]}
    half = len(rows)
    return {name: (exact_sum(_flat(parts[:half])), exact_sum(_flat(parts[half:]))) for name, parts in joined.items()}


def _flat(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in parts])


def _of_tokens(sums: dict[str, tuple[float, float]], sizes: dict[str, int]) -> dict[str, float]:
    total, weight = sums["loss"]
    scalars = {"bits_per_token": bits.bits(total, weight), "perplexity": bits.perplexity(total / weight)}
    if sizes.get("byte"):
        scalars["bits_per_byte"] = bits.bits(total, sizes["byte"])
    if "record" in sizes:
        units = {"token": weight, "character": sizes["character"], "record": sizes["record"]}
        scalars |= {f"nats_per_{unit}": total / count for unit, count in units.items()}
    return scalars


def _of_images(model: Any, shape: tuple[int, ...], scalars: dict[str, float]) -> dict[str, float]:
    bound = scalars.get("elbo", scalars.get("log_prob"))
    if bound is None or not getattr(model, "discrete_likelihood", False):
        return {}
    dims = math.prod(shape)
    found = {"bits_per_dim": bits.bits(-bound, dims)}
    if isinstance(model, HasBoundParts):
        found |= {f"{name}_bits_per_dim": bits.bits(scalars[name], dims) for name in model.bound_parts}
    return found


def _derived(context: evaluator.Context, means: set[str]) -> list[str]:
    """The names of what follows from the means of these names."""
    found = []
    if context.info.kind == "tokens" and "loss" in means:
        found += ["bits_per_token", "perplexity", "bits_per_byte"]
    if context.info.kind == "audio" and "loss" in means:
        found.append("bits_per_sample")
    if context.info.kind == "image":
        found += _of_images(context.model, context.info.shape, dict.fromkeys(means, 0.0))
    if context.info.entropy is not None and "loss" in means:
        found.append("excess")
    return found + ["posterior_collapse"] * ("kl" in means)


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """Means over `cfg.split`, in the units of the model's metrics, and what follows from them.

    tokens: `bits_per_token` and `perplexity` of `loss`; `bits_per_byte` shares the same nats over the UTF-8 bytes of
      the split's text.
    records of text: `nats_per_record`, `nats_per_token` and `nats_per_character`, where the end of a record is one
      token, one character and one byte.
    audio: `bits_per_sample` of `loss`, a number of the values that the model's output tells apart: 256 or 65,536.
    images: `bits_per_dim` of `elbo` or `log_prob` over all H W C dimensions, where the model says that it is of
      discrete pixels (`HasLikelihood`). Of a model with `bound_parts` also each of them, as `diffusion_bits_per_dim`.
    sources of known entropy: `excess`, nats of `loss` above it.
    models with `kl`: `posterior_collapse`, 1 where kl < collapse_kl, with a warning.
    """
    model, kind = context.model, context.info.kind
    if cfg.carried:
        able = isinstance(model, models.Carries)
        evaluator.require(able, "mean: carried", f"false for {type(model).__name__}, which keeps no carry")
        evaluator.require(
            not context.info.records, "mean: carried", "false for records, each of which stands by itself"
        )
    steps, trace = _carried(context) if cfg.carried else _plain(context)
    sizes: dict[str, int] = {}  # of the split's text: read once

    def evaluate(state: State) -> evaluator.Report:
        report = evaluator.Report()
        sums = totals(list(steps(state, context.batches(cfg.split))))
        for name, (total, weight) in sums.items():
            if weight == 0:
                report.warnings.append(f"{name}: nothing in {cfg.split} counts towards it")
            else:
                report.scalars[name] = total / weight
        if kind == "tokens" and "loss" in report.scalars:
            if context.count_bytes and not sizes:
                sizes.update(evaluator.text_sizes(context, evaluator.target_tokens(context.batches(cfg.split))))
            report.scalars |= _of_tokens(sums, sizes)
        if kind == "audio" and "loss" in report.scalars:
            report.scalars["bits_per_sample"] = bits.bits(*sums["loss"])
        if kind == "image":
            report.scalars |= _of_images(model, context.info.shape, report.scalars)
        if context.info.entropy is not None and "loss" in report.scalars:
            report.scalars["excess"] = report.scalars["loss"] - context.info.entropy
        if "kl" in report.scalars:
            kl = report.scalars["kl"]
            report.scalars["posterior_collapse"] = float(kl < cfg.collapse_kl)
            if kl < cfg.collapse_kl:
                report.warnings.append(f"posterior collapse: kl is {kl:.3g} nats, below {cfg.collapse_kl:g}")
        return report

    return evaluator.Evaluator(evaluate, trace, lambda means: [*means, *_derived(context, set(means))])
