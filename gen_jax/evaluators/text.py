"""Text that a model writes."""

import re

import jax

from gen_jax.errors import ConfigError
from gen_jax.evaluators import base
from gen_jax.models import base as models
from gen_jax.sampling import SampleOptions
from gen_jax.settings import Positive, PositiveFloat
from gen_jax.state import State


class Config(base.EvalConfig):
    """prompt: what each sample goes on from. n: samples. length: tokens of each."""

    prompt: str = ""
    n: Positive = 4
    length: Positive = 256
    temperature: PositiveFloat = 1.0


def fenced(text: str) -> str:
    """A Markdown code block that shows `text` as it is."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def from_config(cfg: Config, context: base.Context) -> base.Evaluator:
    """`samples`: Markdown, the prompt and `n` texts from the same noise at each evaluation."""
    encode, decode = context.encode_text, context.decode_text
    if decode is None:
        raise ConfigError(f"evals: text: expected data with a tokeniser, they are {context.info.kind}")
    samples = isinstance(context.model, models.Samples)
    base.require(samples, "text", f"a model that samples, not {type(context.model).__name__}")
    base.require(not cfg.prompt or encode is not None, "text: prompt", "a tokeniser that encodes")
    prompts = (tuple(int(i) for i in encode(cfg.prompt)),) if cfg.prompt and encode else ()
    options = SampleOptions(temperature=cfg.temperature, length=cfg.length, prompts=prompts)

    @jax.jit
    def sample(state, rng):
        return context.model.sample(state, rng, cfg.n, options)

    def evaluate(state: State) -> base.Report:
        rows = [row[:size] for row, size in zip(*base.read(sample(state, context.rng)), strict=True)]
        head = [f"Prompt:\n\n{fenced(cfg.prompt)}"] if cfg.prompt else []
        return base.Report(texts={"samples": "\n\n".join([*head, *(fenced(decode(row)) for row in rows)])})

    return evaluate
