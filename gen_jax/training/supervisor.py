"""Watches a run from outside: signals that stop it, the watchdog for hangs, and STATUS.json."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from gen_jax.errors import RunError
from gen_jax.parallel.watchdog import watched
from gen_jax.runs.run_dir import RunDir
from gen_jax.runs.status import Kept

ShouldStop = Callable[[], type[RunError] | None]  # the error that a signal asks for


@dataclasses.dataclass
class Supervisor:
    """What a loop reports to, and asks whether to stop.

    Attributes:
      should_stop: the error to end with if a signal came, else None.
      heartbeat: call it whenever the main thread makes progress. Without it the watchdog ends the process.
    """

    should_stop: ShouldStop
    heartbeat: Callable[[], None]
    status: Kept

    def reach(self, step: int) -> None:
        """Sets the step that STATUS.json shows."""
        self.status.step = step


@contextlib.contextmanager
def supervised(run_dir: RunDir, should_stop: ShouldStop, hang_limit_s: float) -> Iterator[Supervisor]:
    """Locks `run_dir` for this process, and keeps its STATUS.json: the step, and how the run ended."""
    with (
        run_dir.locked(),
        run_dir.keep_status() as status,
        watched(hang_limit_s, lambda: status.end("lost")) as heartbeat,
    ):
        yield Supervisor(should_stop, heartbeat, status)
