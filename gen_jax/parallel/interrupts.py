"""Signals from the start of a command, without jax, whose import takes seconds.

Python calls its handlers in the main thread, between two of its own instructions. While C++ compiles, allocates or
waits for another process, no handler runs. A thread that reads what `signal.set_wakeup_fd` writes need not wait.

An exception that a handler raises inside a callback of the garbage collector (jax has one) or in a destructor is
ignored. `sys.unraisablehook` sees it there, and the signal is sent again.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from gen_jax.errors import Interrupted, Preempted

AGAIN = 0.01  # seconds until a signal whose exception was ignored is sent again
STOPS = {signal.SIGTERM: Preempted, signal.SIGHUP: Preempted, signal.SIGINT: Interrupted}
SHOW_CURSOR = b"\x1b[?25h\n"  # a progress bar hides it
raised: dict[BaseException, int] = {}  # what handlers have raised, and for which signal
repeats: list[int] = []  # the signals that were sent again


def wanted() -> list[signal.Signals]:
    """The signals of `STOPS`, without SIGHUP where it is ignored: `nohup`."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOPS if not (ignored and number == signal.SIGHUP)]


@contextlib.contextmanager
def second_leaves() -> Iterator[None]:
    """A second SIGINT ends the process at once with exit code 130, whatever the main thread does.

    SIGINT needs a Python handler. Only the main thread may set this up; in others it does nothing.
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
        if number[0] == signal.SIGINT:
            count += 1
        if count - repeats.count(signal.SIGINT) == 2:
            if sys.stderr.isatty():
                os.write(2, SHOW_CURSOR)
            os._exit(Interrupted.code)


@contextlib.contextmanager
def early() -> Iterator[None]:
    """For a whole command: SIGTERM and SIGHUP end it with exit code 75, SIGINT with 130.

    Training and evaluation install their own handlers as soon as there is something to save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        if number == signal.SIGINT:
            stop(number, KeyboardInterrupt())
        if number not in repeats:
            print(f"gen-jax: stopped by {signal.Signals(number).name}; nothing is to be saved yet", file=sys.stderr)
        stop(number, SystemExit(STOPS[signal.Signals(number)].code))  # no Exception, which some code catches

    before = {number: signal.signal(number, end) for number in wanted()}
    hook, sys.unraisablehook = sys.unraisablehook, _again
    try:
        with second_leaves():
            yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(number: int, error: BaseException) -> NoReturn:
    """Raises the error in the handler of a signal. Within `early` it repeats until the error is not ignored."""
    raised[error] = number
    raise error


def _again(ignored: "sys.UnraisableHookArgs") -> None:
    """A `sys.unraisablehook` that sends a signal again if its error was ignored."""
    number = raised.get(ignored.exc_value) if ignored.exc_value else None
    if number is None:
        sys.__unraisablehook__(ignored)
        return
    repeats.append(number)
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(AGAIN, signal.pthread_kill, (main, number)).start()
