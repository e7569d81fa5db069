"""`train(config, workdir) -> State`: the one way to train, for every family; `loop.Loop` is what it does."""

import os
import sys
import types
from typing import Any

from gen_jax import config as configs
from gen_jax.core.state import State
from gen_jax.parallel import signals
from gen_jax.runs.progress import Progress
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import defaults
from gen_jax.training import gpt2, same_data, seed_report, seed_runs, seeds
from gen_jax.training.loop import opened
from gen_jax.training.program import Program
from gen_jax.training.supervisor import supervised


def train(
    config: Any,
    workdir: str | os.PathLike,
    *,
    trust_checkpoints: bool = False,
    accept_data: bool = False,
    override: bool = False,
) -> State:
    """Trains, or continues, until `config.total_steps`; returns the last state.

    Args:
      config: a ConfigDict, a dict or a resolved Experiment.
      workdir: the run directory, local or `gs://`; created, or resumed when it holds a run of the same config. With
        `num_seeds` S > 1 it holds a run directory for each seed, and the state is stacked, [S, ...].
      trust_checkpoints: continues from checkpoints whose manifests are gone, which nothing can verify.
      override: resumes also with other `best`, `evals`, learning rates and skipped updates (`skip_nonfinite`,
        `skip_above`), and records that in manifest.json.
      accept_data: resumes also where the data are not those that the run began with.

    Raises:
      ConfigError, DataError: before anything is compiled.
      NonFiniteError, CheckpointError, StorageError, Preempted, Interrupted: as their names say; the run can be resumed.
    """
    experiment = configs.resolve(config)
    run_dir = RunDir(workdir, trust_checkpoints, override)
    trained = run_dir.check(configs.to_dict(experiment), defaults(experiment))
    if experiment.init_from.workdir:
        seed_report.only(RunDir(experiment.init_from.workdir), "config.init_from.workdir")
    if experiment.init_from.safetensors:
        gpt2.check(experiment.init_from.safetensors, experiment.model_name)
    with signals.polled() as should_stop:
        program = seeds.make(experiment, tokenizer_file=run_dir.saved_tokenizer() if trained else "")
        changes = same_data.check(run_dir, program.dataset, accept_data) if trained else []
        program.check()

        def create(program: Program, run_dir: RunDir) -> None:
            run_dir.create(configs.to_dict(program.experiment), defaults(program.experiment))
            run_dir.keep_tokenizer(program.dataset.tokenizer)
            same_data.keep(run_dir, program.dataset, changes)

        create(program, run_dir)
        with supervised(run_dir, should_stop, experiment.hang_limit_s) as supervisor:
            if isinstance(program, seeds.Seeds):
                return seed_runs.train(program, run_dir, supervisor, create)
            with opened(program, run_dir, supervisor, Progress("train", experiment.total_steps)) as loop:
                return loop.run()


class _Callable(types.ModuleType):
    """`gen_jax.train(config, workdir)` in Python, where `gen_jax.train` is this module."""

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    from gen_jax import cli

    cli.main(["train", *sys.argv[1:]])
