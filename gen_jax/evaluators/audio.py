"""Sounds that a model makes: to listen to, and as spectrograms beside real ones."""

import jax
import numpy as np

from gen_jax.core.state import State
from gen_jax.evaluators import evaluator
from gen_jax.models import base as models
from gen_jax.parallel.processes import gather
from gen_jax.runs import plots
from gen_jax.settings import Few


class Config(evaluator.SampledConfig):
    """What is shown."""

    columns: Few = 3
    """Sounds of each class, sampled, and as many real ones."""
    rows: Few = 4
    """Rows where there are no classes."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """`samples`: sounds from the same noise at each evaluation, one class after the other, `columns` of each.

    `spectrograms`: a row a class, real sounds from all over the split on the left, the samples on the right.
    """
    model, info = context.model, context.info
    evaluator.require(info.kind == "audio", "audio", f"sound, the data are {info.kind}")
    evaluator.require(isinstance(model, models.Samples), "audio", f"a model that samples, not {type(model).__name__}")
    classes = info.num_classes if context.num_classes else 0
    rows, options = classes or cfg.rows, context.options(cfg)
    label = options.labels(rows, classes)
    in_turn = label is None or np.array_equal(label, np.arange(rows))
    evaluator.require(in_turn, "audio: sampling", "samples of all classes in turn")
    sample = evaluator.drawer(context, cfg, cfg.columns * rows)  # all classes in turn: [columns * rows, T]

    @jax.jit
    def examples(batch):
        return (batch["audio"], batch["label"] if classes else batch["index"] % rows), batch["valid"]

    def real(length: int) -> np.ndarray:
        """[rows, columns, T]; silence where the split has too few of a class."""
        parts = [(s[v], n[v]) for (s, n), v in evaluator.results(examples, context.batches(cfg.split))]
        sounds, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        found = np.zeros((rows, cfg.columns, length), np.int16)
        for row in range(rows):
            mine = sounds[labels == row][:, :length]
            which = np.unique(np.linspace(0, len(mine) - 1, cfg.columns).astype(np.int64)) if len(mine) else []
            found[row, : len(which), : mine.shape[1]] = mine[which]
        return found

    def evaluate(state: State) -> evaluator.Report:
        made = gather(sample(state, context.rng)).reshape(cfg.columns, rows, -1).swapaxes(0, 1)
        shown = np.concatenate([real(made.shape[-1]), made], axis=1)  # [rows, 2 columns, T]
        names = info.class_names if classes and len(info.class_names) == rows else tuple(map(str, range(rows)))
        heads = ["real"] * cfg.columns + ["sampled"] * cfg.columns + [""] * (rows - 1) * 2 * cfg.columns
        picture = plots.spectrograms(
            shown.reshape(-1, shown.shape[-1]),
            info.sample_rate,
            2 * cfg.columns,
            title=f"Sounds of {cfg.split} beside samples",
            names=heads,
            rows=names,
        )
        sounds = made.reshape(-1, made.shape[-1])
        return evaluator.Report(
            images={"spectrograms": picture}, audios={"samples": sounds}, sample_rate=info.sample_rate
        )

    def trace(state: State, batch: dict, rng: jax.Array) -> tuple:
        return model.sample(state, rng, cfg.columns * rows, options), examples(batch)

    return evaluator.Evaluator(evaluate, trace, draws=cfg.columns * rows)
