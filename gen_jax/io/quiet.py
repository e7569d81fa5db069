"""Suppresses output.

Orbax and TensorStore print hundreds of lines about a failed save, besides the error that they raise.
"""

import atexit
import functools
import logging
import os
import sys
from typing import Any, TextIO


def discard(stream: TextIO) -> None:
    """Discards what is written to a stream from now on: its reader is closed, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@functools.cache
def quieten() -> None:
    """Hides their logs and tracebacks. Their errors are raised by the wait for the save."""
    logging.getLogger("absl").addFilter(
        lambda record: not (record.levelno >= logging.ERROR and "orbax" in record.pathname)
    )
    # when one array has failed, nobody waits for the others, and their event loop is closed
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
    before = sys.unraisablehook

    def hook(found: Any) -> None:
        if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
            before(found)

    sys.unraisablehook = hook


@functools.cache
def mute_at_exit() -> None:
    """For a failed save: unfinished work of it ends with the interpreter, without the modules it needs."""
    atexit.register(lambda: (sys.stderr.flush(), os.dup2(os.open(os.devnull, os.O_WRONLY), 2)))
