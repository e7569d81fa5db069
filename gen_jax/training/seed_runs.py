"""Runs several seeds side by side: their loops take turns.

Once every loop has reached its next step, one dispatch makes that step for all of them.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

from gen_jax.core.state import State
from gen_jax.errors import Interrupted, Preempted, RunError, kind_and_line
from gen_jax.parallel import sharding
from gen_jax.runs.progress import Part, Progress
from gen_jax.runs.run_dir import RunDir
from gen_jax.training import seed_report
from gen_jax.training.loop import opened
from gen_jax.training.seeds import Seat, Seeds
from gen_jax.training.supervisor import Supervisor

Run = Generator[int, None, State]  # yields the number of a step before it is made


def train(program: Seeds, run_dir: RunDir, supervisor: Supervisor, create: Callable[[Seat, RunDir], None]) -> State:
    """Trains a run for each seed in its own directory below `run_dir`, and writes the statistics over seeds there.

    Args:
      create: makes the directory of one seed.

    Raises: as `side_by_side`.
    """
    folders = seed_report.folders(run_dir)
    for seat, folder in zip(program.seats, folders.values(), strict=True):
        create(seat, folder)
    facts = {"mesh": sharding.describe(program.mesh), "parameters": program.shapes.sizes}
    run_dir.record_start(program.experiment.seed, **facts)
    with (
        Progress("train", program.experiment.total_steps) as progress,
        run_dir.spooled(),
        seed_report.SeedReport(run_dir, folders) as report,
    ):

        def after(step: int | None) -> None:
            report.update(step)
            steps = [folder.status().get("step", 0) for folder in folders.values()] if step is None else [step]
            supervisor.reach(max(steps))

        parts = [Part(progress, f"seed {seed}") for seed in folders]
        runs = [_run(*each, supervisor) for each in zip(program.seats, folders.values(), parts, strict=True)]
        return side_by_side(program, runs, after)


def _run(seat: Seat, folder: RunDir, progress: Part, supervisor: Supervisor) -> Run:
    """`Loop.run`, which waits before each step until the step is made for all seeds."""
    with folder.locked(), folder.keep_status() as status:
        own = Supervisor(supervisor.should_stop, supervisor.heartbeat, status)
        try:
            with opened(seat, folder, own, progress) as loop:
                loop.start()
                while not loop.is_done():
                    loop.before_step()
                    yield loop.step
                    loop.train_step()
                return loop.finish()
        except Exception as error:
            if not isinstance(error, Preempted | Interrupted):
                progress.say(f"{kind_and_line(error)}; the others continue")
            raise


def side_by_side(program: Seeds, runs: Sequence[Run], after: Callable[[int | None], None]) -> State:
    """Runs the loops to their ends. Returns their last states, stacked.

    If one loop fails, the others still run to their ends, so nothing they trained is lost.

    Args:
      runs: of the seats of `program`, in order.
      after: called before each dispatch and at the end with the first step that some run has yet to make, None if there
        is none.

    Raises:
      Preempted, Interrupted, or else the error of the first loop that failed, after all have ended. It names the seed.
    """
    steps = [0] * len(runs)
    ended: dict[int, Any] = {}  # states, or errors
    with contextlib.ExitStack() as stack:  # closes all, also where closing one fails
        for run in runs:
            stack.enter_context(contextlib.closing(run))
        while len(ended) < len(runs):
            for i, run in enumerate(runs):
                if i not in ended:
                    try:
                        steps[i] = next(run)
                    except StopIteration as end:
                        ended[i] = end.value
                    except Exception as error:
                        ended[i] = _named(error, program.seats[i].experiment.seed)
            stays = (Preempted, Interrupted)
            going = [step for i, step in enumerate(steps) if i not in ended or isinstance(ended[i], stays)]
            after(min(going, default=None))
            if len(ended) < len(runs):
                program.advance(steps)
    failed = [end for end in ended.values() if isinstance(end, Exception)]
    for stopped in (Preempted, Interrupted, *map(type, failed)):  # to continue comes first
        if found := [end for end in failed if type(end) is stopped]:
            raise stopped("; ".join(map(str, found))) if issubclass(stopped, RunError) else found[0]
    return program.stack([ended[i] for i in range(len(runs))])


def _named(error: Exception, seed: int) -> Exception:
    """The error of a run, with its seed."""
    if isinstance(error, RunError):
        return type(error)(f"seed {seed}: {error}")
    error.add_note(f"in the run of seed {seed}")
    return error
