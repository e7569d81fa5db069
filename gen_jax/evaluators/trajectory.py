"""Pictures of a sampler's steps, from noise to samples."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.core.state import PyTree, State
from gen_jax.evaluators import evaluator
from gen_jax.models import abilities_base as abilities
from gen_jax.models import base as models
from gen_jax.parallel.processes import gather
from gen_jax.runs import grids
from gen_jax.settings import Few


class Config(evaluator.SampledConfig):
    """What is drawn."""

    rows: Few = 8
    """Samples."""
    columns: Few = 8
    """Of the steps: evenly spaced, the start and the end among them."""


def from_config(cfg: Config, context: evaluator.Context) -> evaluator.Evaluator:
    """The picture `trajectory`: a row a sample, a column a step, from the noise to the sample.

    Each row shows what the model's `sample_shown` gives, one below the other, such as z and the estimate of x. A model
    without it shows what it would give if it ended at that step.

    Raises:
      ConfigError: the model does not sample images step by step.
    """
    model, options = context.model, context.options(cfg)
    evaluator.require(context.info.kind == "image", "trajectory", f"images, the data are {context.info.kind}")
    stepped = isinstance(model, models.Stepped)
    evaluator.require(stepped, "trajectory", f"a model that samples in steps, which {type(model).__name__} does not")
    steps = model.sample_steps(options)
    chosen = np.unique(np.linspace(0, steps, cfg.columns).round().astype(int)).tolist()
    start = jax.jit(functools.partial(model.sample_init, n=cfg.rows, options=options))
    step = jax.jit(functools.partial(model.sample_step, options=options), donate_argnums=1)

    names: list[str] = []  # in the order of the model: a compiled function sorts its dicts

    @jax.jit
    def show(state: State, carry: PyTree, i: jax.Array) -> list[Any]:
        if not isinstance(model, abilities.ShowsSteps):
            return [model.sample_finish(state, carry, options)]
        found = model.sample_shown(state, carry, i, options)
        names[:] = found
        return [*found.values()]

    def evaluate(state: State) -> evaluator.Report:
        carry, shown = start(state, context.rng), []
        for i in range(steps + 1):
            context.poll()
            if i in chosen:
                shown.append(gather(show(state, carry, jnp.int32(i))))
            if i < steps:
                carry = step(state, carry, jnp.int32(i))
        columns = [f"step {i}" for i in chosen]
        labels = grids.Labels("Samples step by step", names, columns)
        sets = [np.stack(images, 1) for images in zip(*shown, strict=True)]  # [R, S, H, W, C]
        sets = [images.reshape(-1, *images.shape[2:]) for images in sets]
        return evaluator.Report(images={"trajectory": grids.pairs(*sets, labels=labels, columns=len(chosen))})

    def trace(state: State, batch: dict, rng: jax.Array) -> Any:
        carry = step(state, start(state, rng), jnp.int32(0))
        return show(state, carry, jnp.int32(1))

    return evaluator.Evaluator(evaluate, trace, draws=cfg.rows)
