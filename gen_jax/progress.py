"""Progress with an ETA: a bar on a terminal, a line now and then elsewhere."""

import sys
import time

import rich.console
import rich.progress

QUIET_SECONDS = 10.0


class Progress:
    """How far a long piece of work is; a context manager.

    Args:
      name: of the work.
      total: units of work.
      done: as in `start`.
    """

    def __init__(self, name: str, total: int, done: int = 0):
        self.name, self.total = name, total
        self.start(done)
        self.last_line = self.started - QUIET_SECONDS + 1  # the first line comes after a second
        self.bar = None
        if sys.stderr.isatty():
            columns = rich.progress.Progress.get_default_columns()
            console = rich.console.Console(stderr=True)
            self.bar = rich.progress.Progress(*columns, "{task.fields[note]}", console=console)
            self.task = self.bar.add_task(name, total=total, completed=done, note="")

    def start(self, done: int) -> None:
        """The work begins with so many units that were done before; they do not count towards the speed."""
        self.first, self.started = done, time.monotonic()

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """`done` units are done; `note` stands behind."""
        if self.bar:
            self.bar.update(self.task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self.last_line < QUIET_SECONDS and done < self.total:
            return
        self.last_line = now
        rate = (done - self.first) / max(now - self.started, 1e-9)
        eta = f"ETA {clock((self.total - done) / rate)}" if rate > 0 else "ETA -"
        print(f"{self.name} {done}/{self.total}  {eta}  {note}", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        if self.bar:
            self.bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)


class Part:
    """One of several pieces of work side by side: what it says on the `Progress` of all begins with its name."""

    def __init__(self, whole: Progress, name: str):
        self.whole, self.name = whole, name
        self.start = whole.start

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, done: int, note: str = "") -> None:
        self.whole.update(done, f"{self.name}: {note}")

    def say(self, line: str) -> None:
        self.whole.say(f"{self.name}: {line}")


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 under an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
