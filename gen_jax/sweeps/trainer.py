"""The process that trains one trial: an ordinary `gen-jax train` in an ordinary run directory.

Its output goes to a log that is locked while it lives, whether or not the sweep that started it still does: the lock
belongs to the open file, which the process holds as its stdout.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from gen_jax.errors import ConfigError, RunError, first_line
from gen_jax.io import json_text
from gen_jax.runs.run_dir import RunDir

GRACE = 60.0  # seconds that a trial has to save and end
KILLED = 10.0  # seconds that a killed process takes to be gone
FRACTIONS = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")  # XLA refuses both at once
COMMAND = (sys.executable, "-m", "gen_jax.cli", "train")


class Trainer:
    """Starts at once.

    Args:
      command: without the workdir.
      run_dir: made, or continued.
      log: as `open_log` gives it; closed when the process has ended.
      slot: which of the workers it is, counted from 0; workers share the GPUs of this machine among them.
      workers: how many there are.
    """

    def __init__(self, command: Sequence[str], run_dir: RunDir, log: IO[bytes], slot: int, workers: int):
        self.run_dir, self.log, self.slot = run_dir, log, slot
        self._environment = {**os.environ, **gpu_of(slot, workers)}
        self._command = [*command, f"--workdir={os.fspath(run_dir.path)}"]
        self._deaths, self._reached = 0, -1
        self.start()

    def start(self) -> None:
        """Also again, after an end that asked for it."""
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT, env=self._environment
        )

    def place(self) -> list[Any]:
        """Its host and its number there, as JSON types."""
        return [socket.gethostname(), self.process.pid]

    def deaths(self) -> int:
        """How often it has died since it last came further; counts one more."""
        rows = self.run_dir.rows()
        step = rows[-1]["step"] if rows else 0
        self._deaths = self._deaths + 1 if step <= self._reached else 1
        self._reached = max(step, self._reached)
        return self._deaths

    def last_line(self) -> str:
        """What the process said last, as the reason of its end."""
        lines = Path(self.log.name).read_text(errors="replace").split("\n")
        return next((line.removeprefix("gen-jax: ") for line in reversed(lines) if line.strip()), "no output")

    def stop(self) -> None:
        """Asks it to save and end, and waits for that."""
        self.process.terminate()
        self.process.wait()


def gpu_of(slot: int, workers: int) -> dict[str, str]:
    """The environment that gives a worker one GPU, with the others of its card a share of the memory; {} without GPUs.

    XLA takes three quarters of a card when it starts. A fraction that is set already is left alone.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = [str(i) for i in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]
    names = cards if visible is None else [name for name in visible.split(",") if name]
    if not names:
        return {}
    place = slot % len(names)
    sharing = len(range(place, workers, len(names)))
    given = sharing < 2 or any(name in os.environ for name in FRACTIONS)
    return {"CUDA_VISIBLE_DEVICES": names[place]} | ({} if given else {FRACTIONS[0]: f"{0.9 / sharing:.3f}"})


def open_log(path: Path, left: Sequence[Any] | None, say: Callable[[str], None], grace: float = GRACE) -> IO[bytes]:
    """Opens a trial's log to append; the process that an earlier sweep left running for it is ended first.

    Args:
      left: `Trainer.place` of that process, if any was noted.
      say: reports each signal.
      grace: seconds between SIGTERM and SIGKILL.

    Raises:
      RunError: it is not known, on another host, or does not end.
    """
    file = open(path, "ab")  # noqa: SIM115 (the trainer closes it)
    if lock(file):
        return file
    host, pid = left or ("a host that is not known", 0)
    if host == socket.gethostname():
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, KILLED)):
            say(f"{path.stem}: a process is still running, {pid}: {number.name}, then up to {seconds:g} s")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if lock(file):
                    return file
                time.sleep(0.05)
    file.close()
    raise RunError(f"trial {path.stem}: still runs on {host}, process {pid}; end it, then the same command continues")


def lock(file: IO) -> bool:
    """Locks an open file until it is closed here and in every process that inherits it; False: another has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def check_folder(path: Path) -> dict[str, Any]:
    """What the sweep is that was begun in a folder (`Definition.identity`); {} where none was.

    Raises:
      ConfigError: something else is there, or its file is damaged.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"workdir: expected a directory, {path} is a file")
    begun = (path / "sweep.json").exists()
    if path.exists() and not begun and any(not child.name.startswith(".") for child in path.iterdir()):
        raise ConfigError(f"workdir: {path} is not empty and holds no sweep (no sweep.json); choose another")
    if not begun:
        return {}
    try:
        return dict(json_text.loads((path / "sweep.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"workdir: {path / 'sweep.json'} is damaged: {first_line(error)}") from None
