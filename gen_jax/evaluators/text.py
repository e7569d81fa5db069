"""Text that a model writes, and whether it is as varied as real text."""

import re
from typing import Annotated

import jax
import numpy as np
from pydantic import Field

from gen_jax.core.sampling import SampleOptions
from gen_jax.core.state import State
from gen_jax.errors import ConfigError
from gen_jax.evaluators import evaluator
from gen_jax.metrics import text as metrics
from gen_jax.models import base as models
from gen_jax.parallel.processes import gather
from gen_jax.settings import Count, Fraction, NonNegative, Number, Positive, PositiveFloat

LITTLE = 0.02  # of repetition is none: real text may have 0


class Config(evaluator.EvalConfig):
    """What is drawn, and when it is warned about."""

    prompt: str = ""
    """What each sample continues from."""
    n: Positive = 4
    """Samples that are shown."""
    length: Positive = 256
    """Tokens of each, at most."""
    temperature: NonNegative = 1.0
    """Of the draws; 0 = the likeliest token."""
    top_k: Count = 0
    """Draws from the k likeliest tokens; 0 = all."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Draws from the fewest likeliest tokens that add up to p; 1 = all."""
    min_p: Fraction = 0.0
    """Draws from tokens at least p times as likely as the likeliest; 0 = all."""
    repetition_penalty: PositiveFloat = 1.0
    """Of tokens that are there already; 1 = off."""
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


def _options(cfg: Config, context: evaluator.Context) -> SampleOptions:
    encode, prompts = context.encode_text, ()
    if cfg.prompt and encode:
        try:
            prompts = (tuple(int(i) for i in encode(cfg.prompt)),)
        except ValueError as error:
            raise ConfigError(f"evals: text: prompt: {error}") from None
    return SampleOptions(
        temperature=cfg.temperature,
        top_k=cfg.top_k,
        top_p=cfg.top_p,
        min_p=cfg.min_p,
        repetition_penalty=cfg.repetition_penalty,
        length=cfg.length,
        end=context.info.end,
        prompts=prompts,
    )


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`samples`: Markdown, the prompt and `n` texts from the same noise at each evaluation.

    And alarms of collapse, over `alarm_n` samples (the prompt is not part of them): `distinct_2`, `repetition` and
    `self_bleu`, as `metrics.text` has them; beside each, as its floor or ceiling, `real_...` of as many pieces of
    `split`, as long as the samples. They are left out where the split is too short for two. Records of text are shown
    one a line, the prompt before each, and compared with whole records.
    """
    encode, decode = context.encode_text, context.decode_text
    if decode is None:
        raise ConfigError(f"evals: text: expected data with a tokeniser, they are {context.info.kind}")
    samples = isinstance(context.model, models.Samples)
    evaluator.require(samples, "text", f"a model that samples, not {type(context.model).__name__}")
    evaluator.require(not cfg.prompt or encode is not None, "text: prompt", "a tokeniser that encodes")
    options = _options(cfg, context)
    split: list[np.ndarray] = []  # its tokens, read once

    @jax.jit
    def sample(state, rng):
        return context.model.sample(state, rng, max(cfg.n, cfg.alarm_n), options)

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
        if context.info.records:
            lines = [cfg.prompt + decode(row) for row in rows[: cfg.n]]
            report.texts["samples"] = fenced("\n".join(lines))
            return report
        head = [f"Prompt:\n\n{fenced(cfg.prompt)}"] if cfg.prompt else []
        report.texts["samples"] = "\n\n".join([*head, *(fenced(decode(row)) for row in rows[: cfg.n])])
        return report

    found = ("distinct_2", "repetition", "self_bleu") if cfg.alarm_n else ()
    names = evaluator.named(*found, *(f"real_{name}" for name in found))
    return evaluator.Evaluator(evaluate, lambda state, batch, rng: sample(state, rng), names, max(cfg.n, cfg.alarm_n))
