"""Every metric of the model over a whole split, as sum(total) / sum(weight)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.evaluators import base
from gen_jax.metrics import bits
from gen_jax.metrics.moments import exact_sum
from gen_jax.models import base as models
from gen_jax.settings import NonNegative
from gen_jax.state import Mean, State


class Config(base.EvalConfig):
    """carried: a recurrent model goes on from batch to batch; each of the `eval_batch_size` rows starts cold on its own
    stretch of the text, so the number depends on that size.
    collapse_kl: nats an example; a smaller `kl` is reported as posterior collapse."""

    carried: bool = False
    collapse_kl: NonNegative = 0.1


def _masked(means: dict[str, Mean], valid: jax.Array) -> dict[str, Mean]:
    return {name: mean.where(valid) for name, mean in means.items()}


def _plain(context: base.Context):
    @jax.jit
    def step(state, batch, rng):
        return _masked(context.model.eval_step(state, batch, rng), batch["valid"])

    def steps(state, batches):
        yield from base.results(lambda batch: step(state, batch, context.rng), batches)

    return steps


def _carried(context: base.Context):
    model = context.model
    init = jax.jit(model.init_carry)

    @jax.jit
    def step(state, batch, carry, rng):
        means, carry = model.eval_carried(state, batch, carry, rng)
        return _masked(means, batch["valid"]), carry

    def steps(state, batches):
        carry = None

        def advance(batch):
            nonlocal carry
            carry = init(batch) if carry is None else carry
            means, carry = step(state, batch, carry, context.rng)
            return means

        yield from base.results(advance, batches)

    return steps


def totals(rows: list[dict[str, Mean]]) -> dict[str, tuple[float, float]]:
    """(sum of totals, sum of weights) of each metric, exact in float64."""
    if not rows:
        return {}
    joined = {name: [getattr(row[name], field) for field in ("total", "weight") for row in rows] for name in rows[0]}
    half = len(rows)
    return {name: (exact_sum(_flat(parts[:half])), exact_sum(_flat(parts[half:]))) for name, parts in joined.items()}


def _flat(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in parts])


def text_bytes(decode: Callable[[np.ndarray], str], batches: Iterable[dict]) -> int:
    """UTF-8 bytes of the text of all target tokens of a split, in the order of the text."""

    @jax.jit
    def targets(batch):
        counted = batch.get("mask", jnp.ones(1)) * batch["valid"][:, None] > 0
        return batch["tokens"][:, 1:], counted, batch["index"], batch["valid"]

    rows = base.results(targets, batches)
    tokens, counted, index, valid = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    order = np.argsort(np.where(valid, index, np.iinfo(np.int64).max), kind="stable")
    tokens, counted = tokens[order], np.broadcast_to(counted[order], tokens.shape)
    return len(decode(tokens[counted]).encode())


def _of_tokens(sums: dict[str, tuple[float, float]], num_bytes: int | None) -> dict[str, float]:
    total, weight = sums.get("nll", sums["loss"])
    scalars = {"bits_per_token": bits.bits(total, weight), "perplexity": bits.perplexity(total / weight)}
    if num_bytes:
        scalars["bits_per_byte"] = bits.bits(total, num_bytes)
    return scalars


def _of_images(model: Any, shape: tuple[int, ...], scalars: dict[str, float]) -> dict[str, float]:
    bound = next((name for name in ("log_prob", "elbo") if name in scalars), None)
    if bound is None or not getattr(model, "discrete_likelihood", False):
        return {}
    return {"bits_per_dim": bits.bits(-scalars[bound], math.prod(shape))}


def from_config(cfg: Config, context: base.Context) -> base.Evaluator:
    """Means over `cfg.split`, in the units of the model's metrics, and what follows from them.

    tokens: `bits_per_token` and `perplexity` of the metric `nll` where the model has it (its loss may hold other
      terms), else `loss`; `bits_per_byte` shares the same nats over the UTF-8 bytes of the split's text.
    images: `bits_per_dim` of `log_prob`, else `elbo`, where the model says that these are probabilities of discrete
      pixels (`HasLikelihood`), over all H W C dimensions.
    models with `kl`: `posterior_collapse`, 1 where kl < collapse_kl, with a warning.
    """
    model, kind = context.model, context.info.kind
    if cfg.carried:
        able = isinstance(model, models.Carries)
        base.require(able, "mean: carried", f"false for {type(model).__name__}, which keeps no carry")
    steps = _carried(context) if cfg.carried else _plain(context)
    known_bytes = []  # of the split: read once

    def evaluate(state: State) -> base.Report:
        report = base.Report()
        sums = totals(list(steps(state, context.batches(cfg.split))))
        for name, (total, weight) in sums.items():
            if weight == 0:
                report.warnings.append(f"{name}: nothing in {cfg.split} counts towards it")
            else:
                report.scalars[name] = total / weight
        if kind == "tokens" and "loss" in report.scalars:
            if context.decode_text and not known_bytes:
                known_bytes.append(text_bytes(context.decode_text, context.batches(cfg.split)))
            report.scalars |= _of_tokens(sums, known_bytes[0] if known_bytes else None)
        if kind == "image":
            report.scalars |= _of_images(model, context.info.shape, report.scalars)
        if "kl" in report.scalars:
            kl = report.scalars["kl"]
            report.scalars["posterior_collapse"] = float(kl < cfg.collapse_kl)
            if kl < cfg.collapse_kl:
                report.warnings.append(f"posterior collapse: kl is {kl:.3g} nats, below {cfg.collapse_kl:g}")
        return report

    return evaluate
