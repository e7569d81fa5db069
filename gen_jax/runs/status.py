"""The state of a run: STATUS.json, and the lock of its process."""

import contextlib
import datetime
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from gen_jax.errors import ConfigError, Interrupted, Preempted, StorageError
from gen_jax.io import disk, gcs, json_text

BEAT_S, REMOTE_BEAT_S = 2.0, 30.0  # between two writes of STATUS.json while a run lasts; the latter on gs://
SILENT_BEATS = 10  # after which a run on another machine counts as gone
LOCK_TRIES, LOCK_S = 5, 0.05  # a watcher holds the lock for a moment


def write(file: epath.Path, facts: dict[str, Any]) -> None:
    """Replaces STATUS.json, on a full disk in the blocks that it has.

    Raises:
      StorageError: it cannot be written.
    """
    text = json.dumps(facts, indent=2) + "\n"
    try:
        disk.write_atomic(file, text)
    except StorageError:
        if disk.is_remote(file) or not file.exists():
            raise
        with disk.writing(file, len(text)), open(file, "r+b") as old:
            old.write(text.encode().ljust(os.fstat(old.fileno()).st_size))


def read(file: epath.Path) -> dict[str, Any]:
    """STATUS.json; {} if it is missing or damaged."""
    try:
        found = json_text.loads(file.read_text()) if file.exists() else {}
    except (OSError, ValueError):
        return {}
    well = isinstance(found, dict) and isinstance(found.get("state"), str) and isinstance(found.get("step"), int)
    return found if well else {}


def facts(state: str, step: int) -> dict[str, Any]:
    """The content of STATUS.json. time: start of the state; heartbeat: the last heartbeat. Both UTC."""
    now = timestamp()
    return {
        "state": state,
        "step": step,
        "time": now,
        "heartbeat": now,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


class Kept:
    """STATUS.json while a run lasts and when it ends, as a context manager: done, preempted, interrupted or failed.

    A thread writes `running` with the step and the time every `BEAT_S` seconds.

    Args:
      file: STATUS.json.
      writes: False in the processes that do not write it.

    Attributes: `step`: what it says of the progress; the loop sets it.
    """

    def __init__(self, file: epath.Path, writes: bool):
        self._file, self._writes = file, writes
        self.step: int = read(file).get("step", 0)
        self._ended, self._writing = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Kept":
        if self._writes:
            self._facts = facts("running", self.step)
            write(self._file, self._facts)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        if kind is None:
            self.end("done")
            return
        with contextlib.suppress(StorageError):  # the first error says why the run ends
            self.end(kind.__name__.lower() if issubclass(kind, Preempted | Interrupted) else "failed")

    def end(self, state: str) -> None:
        """The last write, unless another thread was first. Raises StorageError if it fails."""
        with self._writing:
            first, _ = not self._ended.is_set(), self._ended.set()
            if first and self._writes:
                write(self._file, facts(state, self.step))

    def _beat(self) -> None:
        while not self._ended.wait(REMOTE_BEAT_S if disk.is_remote(self._file) else BEAT_S):
            with self._writing, contextlib.suppress(Exception):  # the main thread meets what is wrong with the disk
                if not self._ended.is_set():
                    self._facts |= {"step": self.step, "heartbeat": timestamp()}
                    write(self._file, self._facts)


@contextlib.contextmanager
def locked(path: epath.Path) -> Iterator[None]:
    """Locks `path` against other processes of this machine. The lock ends with its process, however that ends.

    Raises:
      ConfigError: another process trains here.
      StorageError: there is no room for the lock's file.
    """
    file = _lock_file(path)
    with disk.writing(file):
        stream = open(file, "w")  # noqa: SIM115 - the next line closes it
    with stream:
        for _ in range(LOCK_TRIES):
            if _flock(stream, fcntl.LOCK_EX):
                break
            time.sleep(LOCK_S)
        else:
            raise ConfigError(f"workdir: another process is training in {path}")
        yield


def is_locked(path: epath.Path) -> bool:
    """Whether a process of this machine trains in `path`."""
    try:
        with open(_lock_file(path)) as stream:
            return not _flock(stream, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _lock_file(path: epath.Path) -> os.PathLike:
    return gcs.lock_file(path) if disk.is_remote(path) else path / ".lock"


def _flock(stream: Any, kind: int) -> bool:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class Follower:
    """Whether another process, here or on another machine, still trains in a run directory."""

    def __init__(self, path: epath.Path, file: epath.Path):
        self._path, self._file = path, file
        self._heard, self._at = "", time.monotonic()

    def state(self) -> str:
        """The state in STATUS.json. "gone" if it is "running" and no such process lives; "" if unknown."""
        found = read(self._file)
        state, heard = found.get("state", ""), found.get("heartbeat", "")
        if heard != self._heard:
            self._heard, self._at = heard, time.monotonic()
        if is_locked(self._path):
            return "running"
        silent = time.monotonic() - self._at > SILENT_BEATS * (REMOTE_BEAT_S if disk.is_remote(self._path) else BEAT_S)
        elsewhere = found.get("host", "") != socket.gethostname()  # its lock may not be seen here
        return "gone" if state == "running" and (silent or not elsewhere) else state


def timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
