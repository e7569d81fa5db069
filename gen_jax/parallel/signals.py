"""Turns signals into exceptions at a safe point: a handler sets a flag, and `poll` raises between two steps."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax

from gen_jax.compat import multihost_utils
from gen_jax.errors import Preempted, RunError
from gen_jax.parallel.interrupts import STOPS, second_leaves, stop, wanted


@contextlib.contextmanager
def polled() -> Iterator[Callable[[], type[RunError] | None]]:
    """Records SIGTERM, SIGHUP and SIGINT. Yields a function that returns the error to end with, or None.

    Before its first call there is nothing to save, so a signal raises its error at once. A second SIGINT ends the
    process at once. With several processes jax handles SIGTERM and informs the others; SIGINT and SIGHUP are passed on
    as SIGTERM.
    """
    seen: list[int] = []
    polls = False

    def note(number: int, _: object) -> None:
        seen.append(number)
        if jax.distributed.is_initialized():
            os.kill(os.getpid(), signal.SIGTERM)
        elif not polls:
            stop(number, STOPS[signal.Signals(number)]("stopped before the first step; the same command starts again"))

    def should_stop() -> type[RunError] | None:
        nonlocal polls
        polls = True
        return STOPS[signal.Signals(seen[0])] if seen else None

    mine = [number for number in wanted() if number != signal.SIGTERM or not jax.distributed.is_initialized()]
    main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    before = {number: signal.signal(number, note) for number in mine if main}
    try:
        with second_leaves():
            yield should_stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed(stop: type[RunError] | None, call: int) -> type[RunError] | None:
    """The error to end with. Several processes agree on it, and on the step to save, after a signal to any of them.

    Args:
      stop: the error for the signals of this process.
      call: number of the dispatch, counted by ones: jax agrees on the next number after the largest it has seen.
    """
    if jax.process_count() == 1:
        return stop
    return (stop or Preempted) if multihost_utils.reached_preemption_sync_point(call) else None
