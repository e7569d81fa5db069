"""A thread that ends a process if it hangs, or if another process that it waits for hangs or died.

Once a second every process reports its heartbeat count to process 0 through the store of `jax.distributed`. Process 0
decides, and its verdict, which names the process, reaches all.
"""

import contextlib
import dataclasses
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from gen_jax.compat import global_state
from gen_jax.errors import Interrupted, Lost, NonFiniteError, Preempted, RunError, kind_and_line

BEAT_S = 1.0
SILENT = 10  # beats of the judge without one of the judged, half of it after an error; a suspended judge counts none
NEWS, REPORTS = "gen_jax/news/", "gen_jax/reports/"
LEFT, HANGS = "left", "made no progress"
HUB_GONE = "process 0, which coordinates the others, died"


@contextlib.contextmanager
def watched(limit_s: float, last_act: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Ends this process with exit code 76 and a line on stderr if another process dies or one of them hangs.

    Yields the heartbeat: the main thread calls it whenever it makes progress. A process hangs if it does not call it
    for `limit_s` seconds (0: no limit). Then all stacks are printed too.

    Args:
      limit_s: longer than the longest work between two calls, compiling included.
      last_act: called in a thread before the exit, which waits a few seconds for it.
    """
    watch = _Watch(limit_s, last_act)
    watch.start()
    words = LEFT
    try:
        yield watch.heartbeat
    except (Preempted, Interrupted, NonFiniteError):  # all come to such an end
        raise
    except BaseException as error:
        if watch.client is not None and isinstance(error, Exception) and not isinstance(error, RunError):
            watch.alarmed = True  # where the loss of another process is the cause, the thread ends this one
            time.sleep((SILENT + 3) * BEAT_S)
        words = f"{LEFT}: {kind_and_line(error)}"
        raise
    finally:
        watch.leave(words)


@dataclasses.dataclass
class _Seen:
    """The last report of a process, its heartbeat count, and the beats of process 0 at which each was new."""

    report: str
    calls: str
    beat: int
    advanced: int


class _Watch:
    def __init__(self, limit_s: float, last_act: Callable[[], None]):
        self.limit_s, self.last_act = limit_s, last_act
        self.client, self.rank = global_state.client, global_state.process_id
        self.calls, self.beat, self.alarmed, self.left = 0, 0, False, threading.Event()
        self.seen = {i: _Seen("", "", 0, 0) for i in range(global_state.num_processes)}
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Sends the first report before this process joins a step, so process 0 knows of it. Starts the thread."""
        if self.client is not None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the thread finds it too
                self._report("0 0")
        if self.client is not None or self.limit_s:
            self.thread.start()

    def heartbeat(self) -> None:
        self.calls += 1

    def leave(self, words: str) -> None:
        """Sends the last report. After it this process may be silent."""
        self.left.set()
        if self.thread.is_alive():
            self.thread.join()
        if self.client is not None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._report(words)

    def _run(self) -> None:
        while not self.left.wait(BEAT_S):
            try:
                verdict = self.tick()
            except jax.errors.JaxRuntimeError:
                verdict = HUB_GONE
            if verdict and not self.left.is_set():
                self._end(verdict)

    def tick(self) -> str | None:
        """One beat: reports. Returns the verdict that ends the run, if there is one."""
        self.beat += 1
        self._report(f"{self.beat} {self.calls}")
        return self._judge() if self.rank == 0 else self._read_news()

    def _report(self, report: str) -> None:
        if self.client is None:
            self._note(0, report)
        else:
            key = f"{REPORTS if self.rank else NEWS}{self.rank}"
            self.client.key_value_set(key, report, allow_overwrite=True)
            if self.rank == 0:
                self._note(0, report)

    def _note(self, rank: int, report: str) -> None:
        seen, calls = self.seen[rank], report.partition(" ")[2]
        if report != seen.report:
            seen.report, seen.beat = report, self.beat
        if calls != seen.calls:
            seen.calls, seen.advanced = calls, self.beat

    def _read_news(self) -> str | None:
        """The verdict of process 0, or that it died."""
        assert self.client is not None
        news = {key.removeprefix(NEWS): value for key, value in self.client.key_value_dir_get(NEWS)}
        self._note(0, news.get("0", ""))
        return news.get("verdict") or self._gone({0: self.seen[0]})

    def _judge(self) -> str | None:
        if self.client is not None:
            for key, report in self.client.key_value_dir_get(REPORTS):
                self._note(int(key.removeprefix(REPORTS)), report)
        verdict = self._gone(self.seen) or self._stuck()
        if verdict and self.client is not None:
            self.client.key_value_set(f"{NEWS}verdict", verdict)
        return verdict

    def _gone(self, judged: dict[int, _Seen]) -> str | None:
        patience = SILENT // 2 if self.alarmed else SILENT
        for rank, seen in judged.items():
            silent = self.beat - seen.beat
            if silent < patience or seen.report in ("", LEFT):  # "": has not come this far, and may take its time
                continue
            if not seen.report.startswith(LEFT):
                return f"process {rank} died: no heartbeat for {patience * BEAT_S:g} s"
            if self.alarmed or silent >= 3 * SILENT:  # before, this one may be ending as that one did, and be writing
                return f"process {rank} died{seen.report.removeprefix(LEFT)}"
        return None

    def _stuck(self) -> str | None:
        """Names the processes with the fewest heartbeats: the others wait for them."""
        running = {rank: seen for rank, seen in self.seen.items() if not seen.report.startswith(LEFT)}
        longest = max(((self.beat - seen.advanced) * BEAT_S for seen in running.values()), default=0.0)
        if not self.limit_s or longest < self.limit_s:
            return None
        least = min(int(seen.calls or 0) for seen in running.values())
        behind = [str(rank) for rank, seen in running.items() if int(seen.calls or 0) == least]
        return f"process {' and '.join(behind)} {HANGS} for {self.limit_s:g} s (config.hang_limit_s)"

    def _end(self, verdict: str) -> None:
        try:
            if HANGS in verdict:
                faulthandler.dump_traceback(2, all_threads=True)
            print(last_line(verdict), file=sys.stderr, flush=True)
            act = threading.Thread(target=self.last_act, daemon=True)
            act.start()
            act.join(3 * BEAT_S)  # longer where the workdir is what hangs
            if self.rank == 0 and self.client is not None:
                time.sleep(3 * BEAT_S)  # the others read the verdict here, and jax ends them when this process ends
        finally:
            os._exit(Lost.code)


def last_line(verdict: str) -> str:
    """The line on stderr before the process exits."""
    return f"gen-jax: {verdict}; the same command continues from the last checkpoint"
