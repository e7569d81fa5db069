"""What is not to be printed.

Orbax and TensorStore print hundreds of lines of a save that failed, beside the error that they raise.
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
    """Their errors are raised where the save is waited for; logs and tracebacks of them are left out."""
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
    """After a save that failed: what it left half-done ends with the interpreter, without the modules that it needs."""
    atexit.register(lambda: (sys.stderr.flush(), os.dup2(os.open(os.devnull, os.O_WRONLY), 2)))
