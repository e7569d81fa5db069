"""Signals from the first moment of a command on; without jax, whose import takes seconds.

Python calls its handlers in the main thread, between two of its own instructions: while C++ compiles, allocates or
waits for another process, none is called. A thread that reads what `signal.set_wakeup_fd` writes need not wait.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from gen_jax.errors import Interrupted, Preempted

STOPS = {signal.SIGTERM: Preempted, signal.SIGHUP: Preempted, signal.SIGINT: Interrupted}
SHOW_CURSOR = b"\x1b[?25h\n"  # a progress bar hides it


def wanted() -> list[signal.Signals]:
    """The signals of `STOPS`, without SIGHUP where it is ignored: `nohup`."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOPS if not (ignored and number == signal.SIGHUP)]


@contextlib.contextmanager
def second_leaves() -> Iterator[None]:
    """Within it a second SIGINT ends the process at once with exit code 130, whatever the main thread does.

    SIGINT needs a handler of Python's. Nothing in a thread other than the main one, which alone may set this up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(reading,), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)


def _listen(reading: int) -> None:
    count = 0
    while number := os.read(reading, 1):
        count += number[0] == signal.SIGINT
        if count == 2:
            if sys.stderr.isatty():
                os.write(2, SHOW_CURSOR)
            os._exit(Interrupted.code)


@contextlib.contextmanager
def early() -> Iterator[None]:
    """Around a whole command: SIGTERM and SIGHUP end it with exit code 75, SIGINT with 130, where it is.

    Training and evaluation put their own handlers in place of these as soon as there is something to save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        print(f"gen-jax: stopped by {signal.Signals(number).name}; nothing is to be saved yet", file=sys.stderr)
        sys.exit(STOPS[signal.Signals(number)].code)  # no Exception, which some code catches

    handlers = {number: signal.default_int_handler if number == signal.SIGINT else end for number in wanted()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with second_leaves():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
