"""What watches a run from outside: the signals that stop it, the watchdog of hangs, STATUS.json."""

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
    """Of one run.

    should_stop: the error to end with where a signal came, else None.
    heartbeat: to be called whenever the main thread gets on; without it the watchdog ends the process.
    """

    should_stop: ShouldStop
    heartbeat: Callable[[], None]
    status: Kept

    def reach(self, step: int) -> None:
        """The step that STATUS.json shows from now on."""
        self.status.step = step


@contextlib.contextmanager
def supervised(run_dir: RunDir, should_stop: ShouldStop, hang_limit_s: float) -> Iterator[Supervisor]:
    """Within it this process alone trains in `run_dir`, and says there how far it is and how it ended."""
    with (
        run_dir.locked(),
        run_dir.keep_status() as status,
        watched(hang_limit_s, lambda: status.end("lost")) as heartbeat,
    ):
        yield Supervisor(should_stop, heartbeat, status)
