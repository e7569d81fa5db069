"""If process 0 dies, jaxlib aborts the others with a C++ stack. This adds a line and exit code 76."""

import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Iterator

from gen_jax.compat import global_state
from gen_jax.errors import Lost
from gen_jax.parallel.watchdog import HUB_GONE, last_line

ANSWER_S = 5.0


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Exits with a line and code 76 on SIGABRT if the coordinator does not answer. Other aborts are not changed.

    The handler is in C, because Python's would only run after `abort` has ended the process. jaxlib 0.10.2 has a
    callback for the loss too, `missed_heartbeat_callback`, but it cannot pass its argument to Python (std::bad_cast).
    """
    address = global_state.coordinator_address

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def on_abort(_: int) -> None:
        if address and not _answers(address):
            os.write(2, f"{last_line(HUB_GONE)}\n".encode())  # the main thread may hold the lock of sys.stderr
            os._exit(Lost.code)

    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    before = set_handler(signal.SIGABRT, ctypes.cast(on_abort, ctypes.c_void_p))
    try:
        yield
    finally:
        set_handler(signal.SIGABRT, before)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError:
        return False
    return True
