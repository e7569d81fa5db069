"""What Markov models of the mu-law codes achieve on sound: the number that a model has to beat."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.core import ops
from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.metrics.markov import Markov, Sequences
from gen_jax.settings import Few


class Config(evaluator.EvalConfig):
    """Of the interpolated chain."""

    order: Few = 3
    """The longest context."""
    tuned_on: str = "validation"
    """The split that the weights of the interpolation are tuned on."""
    when: Literal["always", "end"] = "end"
    """At each evaluation, or once at the end: the numbers never change."""

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", self.tuned_on, self.split)


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`markov_<n>_bits_per_sample` of `cfg.split` for n = 1 ... order; `markov_bits_per_sample` is the best of them.

    Interpolated models of the codes of the training split (`metrics.markov`), on the samples that `mask` counts, as
    `bits_per_sample` of a model with mu-law output is. The trained model plays no part.
    """
    evaluator.require(context.info.kind == "audio", "markov", f"sound, the data are {context.info.kind}")
    evaluator.require(256 ** (cfg.order + 1) < 2**63, "markov: order", "at most 6")
    known: dict[str, float] = {}

    @jax.jit
    def codes(batch):
        return ops.mu_law_encode(batch["audio"]).astype(np.uint8), batch["mask"] > 0, batch["valid"]

    def sequences(split: str) -> Sequences:
        found = [(c[v], m[v]) for c, m, v in evaluator.results(codes, context.batches(split))]
        return Sequences(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def evaluate(state: State) -> evaluator.Report:
        if not known:
            silence = int(ops.mu_law_encode(jnp.zeros((), jnp.int16)))
            model = Markov.fit(sequences("train"), sequences(cfg.tuned_on), cfg.order, 256, silence)
            test = sequences(cfg.split)
            bits = {order: model.bits_per_code(test, order) for order in range(1, cfg.order + 1)}
            known.update({f"markov_{order}_bits_per_sample": value for order, value in bits.items()})
            known["markov_bits_per_sample"] = min(bits.values())
        return evaluator.Report(dict(known))

    names = [f"markov_{order}_bits_per_sample" for order in range(1, cfg.order + 1)]
    return evaluator.Evaluator(evaluate, names=evaluator.named("markov_bits_per_sample", *names))
