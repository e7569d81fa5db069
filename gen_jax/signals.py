"""Signals become exceptions at a safe place: a flag is set, and `poll` raises where the state is whole."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from gen_jax.errors import Interrupted, Preempted, RunError

_ERRORS = {signal.SIGTERM: Preempted, signal.SIGINT: Interrupted}


@contextlib.contextmanager
def polled() -> Iterator[Callable[[], type[RunError] | None]]:
    """Within it, SIGTERM and SIGINT are only noted; the yielded function says which error they ask for.

    A second SIGINT ends the process at once.
    """
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        if number == signal.SIGINT and number in seen:
            raise KeyboardInterrupt
        seen.append(number)

    # only the main thread may set handlers; with several processes they are jax's own
    mine = threading.current_thread() is threading.main_thread() and not jax.distributed.is_initialized()
    before = {number: signal.signal(number, note) for number in _ERRORS if mine}
    try:
        yield lambda: _ERRORS[signal.Signals(seen[0])] if seen else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed(asked: type[RunError] | None, call: int) -> type[RunError] | None:
    """With several processes: Preempted where all of them reached the call to save at after a SIGTERM to any.

    Args:
      asked: what the signals of this process ask for.
      call: number of the dispatch, counted by ones: jax agrees on the next number after the largest it has seen.
    """
    if jax.process_count() == 1:
        return asked
    return Preempted if multihost_utils.reached_preemption_sync_point(call) else None
