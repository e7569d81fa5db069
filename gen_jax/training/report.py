"""What a run logs about its evaluators and its config."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gen_jax.core.state import State, path_name
from gen_jax.evaluators.evaluator import EvalConfig, Report
from gen_jax.parallel.processes import gather
from gen_jax.runs import metric_tags
from gen_jax.runs.log import Writer


def tag_start(cfg: EvalConfig) -> str:
    """The start of an evaluator's tags."""
    return f"{metric_tags.head(cfg.split)}/{cfg.prefix}"


def tagged(cfg: EvalConfig, report: Report) -> dict[str, float]:
    """The scalars of a report by their tags, such as `test/elbo`."""
    return {f"{tag_start(cfg)}{name}": float(value) for name, value in report.scalars.items()}


def write_report(
    writer: Writer, step: int, cfg: EvalConfig, report: Report, say: Callable[[str], None]
) -> dict[str, float]:
    """Writes what an evaluator found under its split's tag; timings are said. Returns the tagged scalars."""
    tag, scalars = tag_start(cfg), tagged(cfg, report)
    writer.write_scalars(step, scalars)
    writer.write_images(step, {f"{tag}{name}": image for name, image in report.images.items()})
    writer.write_texts(step, {f"{tag}{name}": text for name, text in report.texts.items()})
    sounds = {f"{tag}{name}": sound[..., None] / 32767 for name, sound in report.audios.items()}
    writer.write_audios(step, sounds, sample_rate=report.sample_rate)
    if timings := {f"{tag}{name}": value for name, value in report.timings.items()}:
        writer.write_perf(step, timings)
        say("  ".join(f"{metric_tags.name_of(name)} {value:.4g}" for name, value in timings.items()))
    for warning in report.warnings:
        say(f"warning: step {step}: {warning}")
    return scalars


def histograms(state: State) -> dict[str, np.ndarray]:
    """The parameters of each network, gathered, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path({name: net.params for name, net in state.nets.items()})
    return {f"params/{path_name(path)}": gather(leaf) for path, leaf in leaves}


def hparams(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a sweep would vary."""
    return {key: config[key] for key in ("seed", "total_steps", "batch_size", "data", "model", "optim")}
