"""`gen-jax replay --workdir=D`: repeats the step at which a run was not finite, and names the operation.

Data and noise are functions of the seed and the step, so the newest intact checkpoint before it, or the first state, is
trained up to it again. The state before it and its batch are written to `D/failed/`, as arrays by path.
"""

import argparse

import jax
import jax.numpy as jnp

from gen_jax import config
from gen_jax.core.state import State, path_name
from gen_jax.errors import RunError
from gen_jax.io import paths
from gen_jax.runs import restore, step_dirs
from gen_jax.runs.progress import Progress
from gen_jax.runs.run_dir import RunDir
from gen_jax.training import same_data
from gen_jax.training.init_from import first_state
from gen_jax.training.nonfinite import batch_of, failed_step, finite, write_arrays
from gen_jax.training.origin import origin
from gen_jax.training.preprocess import measured, preprocessed
from gen_jax.training.program import Program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=paths.flag, required=True, help="the run directory")
    same_data.add_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    run_dir = RunDir(args.workdir)
    experiment, failed = config.resolve(run_dir.config()), failed_step(run_dir)
    program = Program(experiment.model_copy(update={"steps_per_call": 1}), tokenizer_file=run_dir.saved_tokenizer())
    same_data.check(run_dir, program.dataset, args.accept_data)
    program, before = _start(program, run_dir, failed)
    state = jax.device_get(_last_finite(program, before, failed))
    step, batch = int(state.step), batch_of(program, int(state.step))
    for name, tree in (("state", state), ("batch", batch)):
        write_arrays(run_dir, name, tree)
    print(f"step {step + 1}: {_cause(program, state, batch)}")
    print(f"its batch and the state before it: {paths.shortest(run_dir.path / 'failed')}")


def _start(program: Program, run_dir: RunDir, failed: int) -> tuple[Program, State]:
    """The newest state from before the step `failed`, and the program that trains it."""
    saved = [step for step in step_dirs.available(run_dir.checkpoints) if step < failed]
    intact = [step for step in saved if not step_dirs.damage(run_dir.checkpoints, step)]
    state = restore.load(run_dir.checkpoints, program.abstract, intact[-1])[1] if intact else first_state(program)
    program = preprocessed(program, state, run_dir.path / "cache")
    return program, measured(program, state)


def _last_finite(program: Program, state: State, failed: int) -> State:
    """The state before the first step, up to `failed`, whose terms or state are not finite."""
    first, state = int(state.step), program.enter(state)
    with Progress("replay", failed, first) as progress:
        for step in range(first, failed):
            before = jax.tree.map(jnp.copy, state)  # the step is given the other one, which it donates
            state, metrics = program.step(state, step)
            if not finite((state, metrics)):
                return program.leave(before)
            progress.update(step + 1)
    raise RunError(f"every step up to {failed} is finite here: expected the devices and versions of the run")


def _cause(program: Program, state: State, batch: dict) -> str:
    if not finite(batch):
        names = [path_name(path) for path, x in jax.tree_util.tree_leaves_with_path(batch) if not finite(x)]
        return f"the data are not finite: {', '.join(names)}"
    found = origin(lambda *args: program.model_without_axis.train_step(*args)[::-1], state, batch, program.train_key)
    if found is None:
        raise RunError("the step is finite where its operations run one by one: it is not where they are compiled")
    scope = f" in {found.scope}" if found.scope else ""
    return f"{found.kind} first from {found.operation}{scope}, {found.line or 'of an unknown line'}"
