"""`train(config, workdir) -> State`: the one way to train, for every family; `loop.Loop` is what it does."""

import os
import sys
import types
from collections.abc import Callable
from typing import Any

from gen_jax import config as configs
from gen_jax.core.state import State
from gen_jax.errors import Interrupted, Preempted, kind_and_line
from gen_jax.parallel import sharding, signals
from gen_jax.parallel.watchdog import watched
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.runs.progress import Part, Progress
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import defaults
from gen_jax.training import gpt2, same_data, seed_report, seeds
from gen_jax.training.loop import Asked, Loop, Run
from gen_jax.training.program import Program


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
        RunDir(experiment.init_from.workdir).config("config.init_from.workdir")
    if experiment.init_from.safetensors:
        gpt2.check(experiment.init_from.safetensors, experiment.model_name)
    with signals.polled() as asked:
        program = seeds.make(experiment, tokenizer_file=run_dir.saved_tokenizer() if trained else "")
        changes = same_data.check(run_dir, program.dataset, accept_data) if trained else []
        program.check()
        _create(program, run_dir, changes)
        with (
            run_dir.locked(),
            run_dir.keep_status() as status,
            watched(experiment.hang_limit_s, lambda: status.end("lost")) as moved,
        ):
            if isinstance(program, seeds.Seeds):
                return _side_by_side(program, run_dir, asked, moved, status.reached, changes)
            progress = Progress("train", experiment.total_steps)
            return _finished(_run(program, run_dir, asked, moved, status.reached, progress))


def _create(program: Program, run_dir: RunDir, changes: list[str]) -> None:
    run_dir.create(configs.to_dict(program.experiment), defaults(program.experiment))
    run_dir.keep_tokenizer(program.dataset.tokenizer)
    same_data.keep(run_dir, program.dataset, changes)


def _run(
    program: Program,
    run_dir: RunDir,
    asked: Asked,
    moved: Callable[[], None],
    reached: dict[str, int],
    progress: Progress | Part,
) -> Run:
    """What `Loop.run` yields and returns."""
    experiment = program.experiment
    with (
        run_dir.spooled(),
        Checkpoints(
            run_dir.checkpoints, experiment.keep, experiment.hash_limit_mb, run_dir.upload, run_dir.trust
        ) as checkpoints,
    ):
        loop = Loop(program, run_dir, checkpoints, asked, moved, reached, progress)
        with loop.writer, progress:
            return (yield from loop.run())


def _finished(run: Run) -> State:
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def _side_by_side(
    program: seeds.Seeds,
    run_dir: RunDir,
    asked: Asked,
    moved: Callable[[], None],
    reached: dict[str, int],
    changes: list[str],
) -> State:
    """A run for each seed, in a run directory of its own in `run_dir`, and what they have in common there."""
    folders = seed_report.folders(run_dir)
    for seat, folder in zip(program.seats, folders.values(), strict=True):
        _create(seat, folder, changes)
    run_dir.record_start(program.experiment.seed, mesh=sharding.describe(program.mesh))

    def run(seat: seeds.Seat, folder: RunDir, progress: Part) -> Run:
        with folder.locked(), folder.keep_status() as status:
            try:
                return (yield from _run(seat, folder, asked, moved, status.reached, progress))
            except Exception as error:
                if not isinstance(error, Preempted | Interrupted):
                    progress.say(f"{kind_and_line(error)}; the others continue")
                raise

    with (
        Progress("train", program.experiment.total_steps) as progress,
        run_dir.spooled(),
        seed_report.SeedReport(run_dir, folders) as report,
    ):

        def after(step: int | None) -> None:
            report.update(step)
            reached["step"] = (
                max(folder.status().get("step", 0) for folder in folders.values()) if step is None else step
            )

        parts = [Part(progress, f"seed {seed}") for seed in folders]
        runs = [run(*each) for each in zip(program.seats, folders.values(), parts, strict=True)]
        return program.train(runs, after)


class _Callable(types.ModuleType):
    """`gen_jax.train(config, workdir)` in Python, where `gen_jax.train` is this module."""

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    from gen_jax import cli

    cli.main(["train", *sys.argv[1:]])
