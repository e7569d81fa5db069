"""What counting alone achieves on a text: the number that a language model has to beat."""

from typing import Any, Literal

import numpy as np

from gen_jax.core.state import State
from gen_jax.errors import ConfigError
from gen_jax.evaluators import evaluator
from gen_jax.metrics.ngram import NGram, apart
from gen_jax.settings import Few


class Config(evaluator.EvalConfig):
    """Of the counts."""

    order: Few = 5
    """Tokens of a gram, 5 = four of context."""
    when: Literal["always", "end"] = "end"
    """At each evaluation, or once at the end: the number never changes."""


def _bits(train: np.ndarray, tokens: np.ndarray, order: int, info: Any) -> float:
    """Of all `tokens`, by the counts of `train`."""
    counts = counted = None
    if info.records:
        (train, counts), (tokens, counted) = (apart(part, info.end, order) for part in (train, tokens))
    p = NGram.fit(train, order, info.vocab_size, counts).probabilities(tokens)
    return float(-np.log2(p if counted is None else p[counted]).sum())


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`ngram_<order>_bits_per_byte` of `cfg.split`, from an interpolated n-gram model of the training tokens.

    Witten-Bell smoothing (`metrics.ngram`) has no weights to tune, so the validation split is not read. As the mean
    evaluator does, it counts all targets and shares their bits over the UTF-8 bytes of the text; its context is never
    cut, which favours it over a model that starts cold. Of records each is counted by itself, after its end token. The
    trained model plays no part.
    """
    vocab = context.info.vocab_size
    if context.count_bytes is None or not vocab:
        raise ConfigError(f"evals: ngram: expected text with a tokeniser, the data are {context.info.kind}")
    evaluator.require(vocab**cfg.order < 2**63, "ngram: order", f"vocabulary ** order < 2 ** 63, with {vocab} tokens")
    known: dict[str, float] = {}

    def evaluate(state: State) -> evaluator.Report:
        if not known:
            train, tokens = (evaluator.target_tokens(context.batches(split)) for split in ("train", cfg.split))
            total = _bits(train, tokens, cfg.order, context.info)
            known[f"ngram_{cfg.order}_bits_per_byte"] = total / evaluator.text_sizes(context, tokens)["byte"]
        return evaluator.Report(dict(known))

    return evaluator.Evaluator(evaluate, names=evaluator.named(f"ngram_{cfg.order}_bits_per_byte"))
