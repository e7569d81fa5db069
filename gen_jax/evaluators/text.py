"""Text that a model writes, and whether it is as varied as real text."""

import re

import jax
import numpy as np

from gen_jax.core.sampling import Prompted
from gen_jax.core.state import PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.evaluators import evaluator
from gen_jax.metrics import text as metrics
from gen_jax.models import base as models
from gen_jax.parallel.processes import gather
from gen_jax.settings import Count, Positive, PositiveFloat

LITTLE = 0.02  # of repetition is none: real text may have 0


class Config(evaluator.SampledConfig):
    """What is drawn, and when it is warned about."""

    n: Positive = 4
    """Samples that are shown."""
    alarm_n: Count = 16
    """Samples whose variety is measured; 0 = none."""
    repetition_n: Positive = 16
    """Characters of the strings whose repetition is measured."""
    alarm_factor: PositiveFloat = 3.0
    """A warning where samples repeat more than this many times what real text does."""


def fenced(text: str) -> str:
    """A Markdown code block that shows `text` as it is."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def variety(texts: list[str], repetition_n: int) -> dict[str, float]:
    """`distinct_2` of words, `repetition` of `repetition_n` characters, and `self_bleu` where there are 2 texts."""
    scalars = {
        "distinct_2": metrics.distinct([metrics.words(text) for text in texts], 2),
        "repetition": metrics.repetition(texts, repetition_n),
    }
    return scalars | ({"self_bleu": metrics.self_bleu(texts)} if len(texts) > 1 else {})


def pieces(tokens: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Disjoint pieces of tokens [N], spread over all of them, of these sizes; fewer where there are not enough."""
    count = min(len(sizes), len(tokens) // max(sizes, default=1))
    starts = [i * len(tokens) // max(count, 1) for i in range(count)]
    return [tokens[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def whole_records(tokens: np.ndarray, end: int, n: int) -> list[np.ndarray]:
    """`n` of the records in tokens [N], each with its `end`, spread over all; fewer where there are fewer."""
    records = np.split(tokens, np.flatnonzero(tokens == end) + 1)[:-1]
    count = min(n, len(records))
    return [records[i * len(records) // count] for i in range(count)]


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`samples`: Markdown, the prompts and `n` texts from the same noise at each evaluation.

    And alarms of collapse, over `alarm_n` samples (the prompt is not part of them): `distinct_2`, `repetition` and
    `self_bleu`, as `metrics.text` has them; beside each, as its floor or ceiling, `real_...` of as many pieces of
    `split`, as long as the samples. They are left out where the split is too short for two. Records of text are shown
    one a line, the prompt before each, and compared with whole records.
    """
    decode = context.decode_text
    if decode is None:
        raise ConfigError(f"evals: text: expected data with a tokeniser, they are {context.info.kind}")
    samples = isinstance(context.model, models.Samples)
    evaluator.require(samples, "text", f"a model that samples, not {type(context.model).__name__}")
    options, n = context.options(cfg), max(cfg.n, cfg.alarm_n)
    prompts = options.prompts if isinstance(options, Prompted) else ()
    prompts = [decode(np.asarray(prompt)) for prompt in prompts] or [""]
    split: list[np.ndarray] = []  # its tokens, read once

    sample = evaluator.drawer(context, cfg, n)

    def alarms(rows: list[np.ndarray]) -> evaluator.Report:
        found = variety([decode(row) for row in rows], cfg.repetition_n)
        if not split:
            split.append(evaluator.target_tokens(context.batches(cfg.split)))
        if context.info.records:
            real = whole_records(split[0], context.info.end, len(rows))
        else:
            real = pieces(split[0], [len(row) for row in rows])
        if len(real) < min(2, len(rows)):
            return evaluator.Report(found)
        expected = variety([decode(row) for row in real], cfg.repetition_n)
        report = evaluator.Report(found | {f"real_{name}": value for name, value in expected.items()})
        if found["repetition"] > cfg.alarm_factor * max(expected["repetition"], LITTLE):
            report.warnings.append(
                f"samples repeat themselves: {found['repetition']:.1%} of {cfg.repetition_n} characters stood there "
                f"before, {expected['repetition']:.1%} in real text"
            )
        return report

    def evaluate(state: State) -> evaluator.Report:
        rows = [row[:size] for row, size in zip(*gather(sample(state, context.rng)), strict=True)]
        report = alarms(rows[: cfg.alarm_n]) if cfg.alarm_n else evaluator.Report()
        report.scalars = context.tagged(cfg, report.scalars)  # real text, too, is as long as the samples
        if context.info.records:
            lines = [prompts[i % len(prompts)] + decode(row) for i, row in enumerate(rows[: cfg.n])]
            report.texts["samples"] = fenced("\n".join(lines))
            return report
        head = [f"Prompt:\n\n{fenced(prompt)}" for prompt in prompts if prompt]
        report.texts["samples"] = "\n\n".join([*head, *(fenced(decode(row)) for row in rows[: cfg.n])])
        return report

    def trace(state: State, batch: dict, rng: jax.Array) -> PyTree:
        return context.model.sample(state, rng, n, options)

    found = ("distinct_2", "repetition", "self_bleu") if cfg.alarm_n else ()
    names = evaluator.named(*found, *(f"real_{name}" for name in found))
    return evaluator.Evaluator(evaluate, trace, names, n)
