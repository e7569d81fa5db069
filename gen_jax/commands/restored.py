"""A trained run, read back: what `eval` and `sample` start from. Needs config.json and a checkpoint, no config file."""

import math

import jax

from gen_jax import config
from gen_jax.config import Experiment
from gen_jax.core.state import State
from gen_jax.errors import ConfigError
from gen_jax.parallel.sharding import MeshConfig
from gen_jax.runs.restore import load
from gen_jax.runs.run_dir import RunDir
from gen_jax.training.program import Program


def experiment_of(run: RunDir) -> Experiment:
    """The run's config, with a mesh for the devices at hand instead of those it was trained on.

    Raises:
      ConfigError: no run is here, or several; or a process would have no part of a batch.
    """
    experiment = config.resolve(run.config())
    if experiment.num_seeds > 1:
        first = run.path / f"seed_{experiment.seed}"
        raise ConfigError(f"workdir: expected one run, {run.path} holds {experiment.num_seeds} seeds: {first}, ...")
    devices = math.gcd(len(jax.devices()), experiment.batch_size, experiment.eval_batch_size)
    if jax.process_count() > 1 and devices < len(jax.devices()):
        sizes = f"{experiment.batch_size} and {experiment.eval_batch_size}"
        raise ConfigError(
            f"--num_processes: expected devices that divide the batches of {sizes}, got {len(jax.devices())}"
        )
    mesh = MeshConfig(data=1, fsdp=devices)
    return experiment.model_copy(update={"mesh": mesh, "parallel": "jit", "platform": "any"})


def restore(program: Program, run: RunDir, step: str) -> tuple[int, State]:
    """The checkpoint `step` ("latest", "best" or a number) of the run."""
    found, state, _ = load(run.checkpoints, program.abstract, step)
    return found, state
