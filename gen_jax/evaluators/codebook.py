"""How much of a codebook a split uses."""

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.metrics import codebook
from gen_jax.models import base as models
from gen_jax.settings import Fraction


class Config(evaluator.EvalConfig):
    """When the codebook is warned about."""

    few: Fraction = 0.1
    """A smaller share of used codes is warned about."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`codebook_perplexity`, exp of the entropy of code use over the whole split, and `codebook_used`, a share."""
    model = context.model
    encodes, quantises = isinstance(model, models.Encodes), isinstance(model, models.Quantises)
    evaluator.require(
        encodes and quantises, "codebook", f"a model that encodes to codes, which {type(model).__name__} does not"
    )

    @jax.jit
    def count(state, batch):
        codes = model.encode(state, batch)
        codes = codes.reshape(len(codes), -1)
        ones = jnp.broadcast_to(batch["valid"][:, None], codes.shape).astype(jnp.int32)
        return jnp.zeros(model.num_codes, jnp.int32).at[codes].add(ones)

    def evaluate(state: State) -> evaluator.Report:
        counts = np.zeros(model.num_codes, np.int64)
        for part in evaluator.results(lambda batch: count(state, batch), context.batches(cfg.split)):
            counts += part
        share = codebook.used(counts)
        report = evaluator.Report({"codebook_perplexity": codebook.perplexity(counts), "codebook_used": share})
        if share < cfg.few:
            report.warnings.append(f"codebook: {(counts > 0).sum()} of {counts.size} codes are used")
        return report

    names = evaluator.named("codebook_perplexity", "codebook_used")
    return evaluator.Evaluator(evaluate, lambda state, batch, rng: count(state, batch), names)
