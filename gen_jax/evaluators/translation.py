"""Translations of a split against their references."""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np

from gen_jax.core.state import State
from gen_jax.errors import ConfigError
from gen_jax.evaluators import evaluator
from gen_jax.evaluators.text import fenced
from gen_jax.metrics.bleu import bleu
from gen_jax.metrics.rouge import rouge
from gen_jax.models import base as models
from gen_jax.settings import Count


class Config(evaluator.SampledConfig):
    """What is translated and measured."""

    max_examples: Count = 0
    """Only that many first pairs of the split; 0 = all."""
    metrics: tuple[Literal["bleu", "rouge", "exact"], ...] = ("bleu",)
    """`bleu` (sacrebleu, 13a), `rouge` (1, 2 and L), `exact` (the share that equals the reference)."""
    examples: Count = 4
    """Pairs that are shown with their translation."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """One text a pair each."""

    sources: list[str]
    references: list[str]
    hypotheses: list[str]


def scores(texts: Texts, metrics: tuple[str, ...]) -> tuple[dict[str, float], list[str]]:
    """The scalars, and lines that say how they were computed."""
    scalars, notes = {}, []
    if "bleu" in metrics:
        scalars["bleu"], signature = bleu(texts.hypotheses, texts.references)
        notes.append(f"BLEU {scalars['bleu']:.2f}, sacrebleu {signature}")
    if "rouge" in metrics:
        scalars |= rouge(texts.hypotheses, texts.references)
    if "exact" in metrics:
        scalars["exact"] = float(np.mean([a == b for a, b in zip(texts.hypotheses, texts.references, strict=True)]))
    return scalars, notes


def markdown(texts: Texts, notes: list[str], n: int) -> str:
    """The notes, then the first `n` pairs with their translation."""
    shown = zip(texts.sources[:n], texts.references[:n], texts.hypotheses[:n], strict=True)
    return "\n\n".join([*notes, *(fenced("\n".join(lines)) for lines in shown)])


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """The metrics of `cfg.split` and, in `translations`, how they were computed and examples: source, reference, ours.

    `exact`, `rouge_*` are shares from 0 to 1, `bleu` is from 0 to 100.
    """
    model, kind, decode = context.model, context.info.kind, context.decode_text
    able = isinstance(model, models.Translates)
    evaluator.require(able, "translation", f"a model that translates, not {type(model).__name__}")
    if kind != "pairs" or decode is None:
        raise ConfigError(f"evals: translation: expected pairs of texts, they are {kind}s")
    evaluator.require(
        "prompts" not in cfg.sampling, "translation: sampling.prompts", "none: the sources are the data's"
    )
    options = context.options(cfg)

    @jax.jit
    def step(state: State, batch: dict, rng: jax.Array) -> dict[str, Any]:
        condition = {name: batch[name] for name in ("source", "source_segment")}
        tokens, lengths = model.translate(state, rng, condition, options)
        reference = {"reference": batch["tokens"][:, 1:], "mask": batch["mask"]}
        return condition | reference | {"tokens": tokens, "lengths": lengths, "valid": batch["valid"]}

    def read(state: State) -> Texts:
        found = Texts([], [], [])
        for rows in evaluator.results(
            lambda batch: step(state, batch, context.rng), context.batches(cfg.split), every=4
        ):
            for row in np.flatnonzero(rows["valid"]):
                found.sources.append(decode(rows["source"][row][rows["source_segment"][row] > 0]))
                found.references.append(decode(rows["reference"][row][rows["mask"][row] > 0]))
                found.hypotheses.append(decode(rows["tokens"][row][: rows["lengths"][row]]).strip())
                if len(found.sources) == cfg.max_examples:
                    return found
        return found

    def evaluate(state: State) -> evaluator.Report:
        texts = read(state)
        scalars, notes = scores(texts, cfg.metrics)
        report = evaluator.Report(
            context.tagged(cfg, scalars), texts={"translations": markdown(texts, notes, cfg.examples)}
        )
        empty = sum(not text for text in texts.hypotheses)
        if empty:
            report.warnings.append(f"translation: {empty} of {len(texts.hypotheses)} translations are empty")
        return report

    rouge_names = ("rouge_1", "rouge_2", "rouge_l") if "rouge" in cfg.metrics else ()
    names = evaluator.named(*rouge_names, *(name for name in cfg.metrics if name != "rouge"))
    return evaluator.Evaluator(evaluate, step, names)
