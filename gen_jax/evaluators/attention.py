"""What a Transformer attends to, as pictures."""

import jax
import numpy as np

from gen_jax.core.state import State
from gen_jax.errors import ConfigError
from gen_jax.evaluators import evaluator
from gen_jax.models import base as models
from gen_jax.parallel.processes import gather
from gen_jax.runs import plots
from gen_jax.settings import Few, Positive


class Config(evaluator.EvalConfig):
    """What is shown."""

    length: Positive = 32
    """Tokens shown of the split's first example."""
    layers: Few = 4
    """Shown at most, the first ones."""
    heads: Few = 8
    """Shown at most, the first ones."""


def label(text: str) -> str:
    """A token as an axis shows it: what cannot be seen is spelt out; the token that begins and ends has no text."""
    text = text or "<end>"
    return text.replace("\n", "\\n").replace("\t", "\\t").replace(" ", "\u2423").replace("$", "\\$")


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`attention`: a map a head, of a text to itself or of a translation to its source.

    Raises:
      ConfigError: the data are no text, or the model has no attention.
    """
    decode, model = context.decode_text, context.model
    if decode is None:
        raise ConfigError(f"evals: attention: expected data with a tokeniser, they are {context.info.kind}")
    evaluator.require(isinstance(model, models.Attends), "attention", f"a Transformer, not {type(model).__name__}")
    weigh = jax.jit(model.attention)

    def evaluate(state: State) -> evaluator.Report:
        batch = jax.tree.map(lambda x: x[:1], next(iter(context.batches(cfg.split))))
        weights, example = gather((weigh(state, batch), batch))
        weights, example = weights[0, : cfg.layers, : cfg.heads], jax.tree.map(lambda x: x[0], example)
        inputs = attended = example["tokens"][:-1]
        if "source" in example:  # padding is no token
            attended = example["source"][example["source_segment"] > 0]
            inputs = inputs[example["segment"] > 0]
        names = [[label(decode(np.asarray([i]))) for i in ids[: cfg.length]] for ids in (inputs, attended)]
        shown = weights[:, :, : len(names[0]), : len(names[1])]
        title = f"Attention {'to the source' if 'source' in example else 'to the text so far'}, first of {cfg.split}"
        return evaluator.Report(images={"attention": plots.attention(shown, *names, title=title)})

    return evaluator.Evaluator(evaluate, lambda state, batch, rng: weigh(state, batch))
