"""Progress of long work: step, speed, elapsed time, ETA and the losses.

A bar on a terminal, a line that is replaced in place in a notebook, plain lines elsewhere.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

import rich.console
import rich.progress
import rich.table

from gen_jax.io.quiet import discard

QUIET_SECONDS = 10.0  # between two lines of the history
CELL_SECONDS = 0.25  # between two updates in a notebook
SHOWN = 4  # scalars in a line
BAR = 10  # cells


class Progress:
    """How far a long piece of work is; a context manager.

    A terminal shows a live bar, and above it the history in the scrollback: the line that a pipe gets every
    `QUIET_SECONDS`. A notebook has no history: when the work ends, its line holds the last losses.

    Args:
      name: of the work.
      total: units of work.
      done: as in `start`.
      unit: what one unit of work is called.
    """

    def __init__(self, name: str, total: int, done: int = 0, unit: str = "step"):
        self.name, self.total, self.unit = name, total, unit
        self.start(done)
        self.last_line = self.started - QUIET_SECONDS + 1  # the first line comes after a second
        self.bar, self.cell = None, _Cell.here()
        if not self.cell and sys.stderr.isatty():
            self.bar = rich.progress.Progress(
                rich.progress.BarColumn(BAR, table_column=rich.table.Column(min_width=BAR)),
                rich.progress.TextColumn("{task.fields[line]}", markup=False),
                console=rich.console.Console(stderr=True),
            )
            self.task = self.bar.add_task(name, total=total, completed=done, line=name)

    def start(self, done: int) -> None:
        """The work begins at `done` units, which do not count towards the speed."""
        self.first, self.started = done, time.monotonic()
        self.done, self.note = done, ""

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()
        if self.cell:
            self.cell.show(f"{self.name}: {self._line(self.done, self.note, time.monotonic())}")

    def update(self, done: int, note: str = "", *, at_once: bool = False) -> None:
        """`done` units are done; `note` ends the line. With `at_once` a pipe gets the line now."""
        now = time.monotonic()
        line = self._line(done, note, now)
        if done > self.done:  # an evaluation, say, does not move the work forward
            self.done, self.note = done, note
        if self.cell:
            if at_once or now - self.last_line >= CELL_SECONDS:
                self.last_line = now
                self.cell.show(f"{self.name}: {line}")
            return
        if self.bar:
            self.bar.update(self.task, completed=done, line=f"{self.name}: {line}")
        if at_once and not self.bar:
            self.say(f"{self.name}: {line}")
        elif now - self.last_line >= QUIET_SECONDS or done >= self.total > 0:
            self.last_line = now
            self.say(f"{self.name}: {line}")

    def _line(self, done: int, note: str, now: float) -> str:
        elapsed = now - self.started
        rate = (done - self.first) / max(elapsed, 1e-9)
        speed = f"{rate:.3g} it/s" if rate > 0 else "- it/s"
        left = clock((self.total - done) / rate) if rate > 0 else "-"
        return f"{self.unit} {done}/{self.total}  {speed}  ETA {left}  elapsed {clock(elapsed)}  {note}".rstrip()

    def say(self, line: str) -> None:
        """A line that stays, above the bar. Where nobody reads stderr any more, the work continues without."""
        try:
            if self.cell:
                print(line)  # a notebook shows stderr as errors
            elif self.bar:
                self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                print(line, file=sys.stderr, flush=True)
        except BrokenPipeError:
            discard(sys.stderr)


class _Cell:
    """A line in the output of a notebook's cell.

    Args:
      display: IPython's.
    """

    def __init__(self, display: Any):
        self.display, self.handle = display, None

    @classmethod
    def here(cls) -> "_Cell | None":
        """None where this process is no notebook's kernel."""
        ipython: Any = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        return cls(ipython.display.display) if hasattr(shell, "kernel") else None

    def show(self, line: str) -> None:
        """Replaces the line."""
        if self.handle:
            self.handle.update({"text/plain": line}, raw=True)
        else:
            self.handle = self.display({"text/plain": line}, raw=True, display_id=True)


class Part:
    """One of several pieces of work side by side: what it says on the `Progress` of all begins with its name."""

    def __init__(self, whole: Progress, name: str):
        self.whole, self.name = whole, name
        self.start = whole.start

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, done: int, note: str = "", *, at_once: bool = False) -> None:
        self.whole.update(done, f"{self.name}: {note}", at_once=at_once)

    def say(self, line: str) -> None:
        self.whole.say(f"{self.name}: {line}")


def brief(scalars: Mapping[str, float]) -> str:
    """The training metrics of a row that fit a line: the losses first, no alarms, rates and norms of gradients."""
    named = {name.removeprefix("train/"): value for name, value in scalars.items()}
    kept = [name for name in named if not name.startswith("alarm_") and not name.endswith(("_lr", "_grad_norm"))]
    kept.sort(key=lambda name: "loss" not in name)  # stable
    return "  ".join(f"{name} {named[name]:.4g}" for name in kept[:SHOWN])


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 under an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
