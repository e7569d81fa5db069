"""Checkpoints with checksums, verified before they are restored.

Built on Orbax's `AsyncCheckpointer` rather than on its `CheckpointManager`: the manifests of `step_dirs` decide which
steps exist, which are intact and which are kept.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from gen_jax.core.state import PyTree
from gen_jax.errors import CheckpointError, StorageError
from gen_jax.io import disk
from gen_jax.io.gcs import absolute
from gen_jax.io.quiet import mute_at_exit, quieten
from gen_jax.parallel.processes import agree, is_primary
from gen_jax.runs import step_dirs
from gen_jax.runs.restore import load
from gen_jax.runs.step_dirs import available

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run that is training. Every process calls every method; process 0 keeps the manifests.

    Opening it cleans up after a killed run: unfinished files are removed, and the steps newer than the newest
    intact one are renamed aside (`7.damaged`), with a warning. Use it as a context: saves are asynchronous, and
    leaving without `close` loses the last one.

    Args:
      directory: made where it is missing.
      keep: the number of last checkpoints that stay, with the best one that each of them names.
      hash_limit_mb: above this size (10^6 bytes) the files of a checkpoint are checked by their sizes alone.
      trust: steps without a manifest are taken as they are.
      committing: called by process 0, in a thread, before a step counts as saved or its record as written: what belongs
        to them is stored then.

    Raises:
      CheckpointError: there are finished checkpoints and none is intact.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        keep: int,
        hash_limit_mb: int | float,
        committing: Callable[[], None] = lambda: None,
        trust: bool = False,
    ):
        quieten()
        self._directory, self._committing = absolute(directory), committing
        self._keep, self._hash_limit = keep, int(hash_limit_mb * 10**6)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._size = 0  # bytes of the last state that was saved
        problem = None
        if is_primary():
            with disk.writing(self._directory):
                if trust:
                    step_dirs.vouch(self._directory, self._hash_limit)
                problem = step_dirs.settle(self._directory)
                if problem is None:
                    self._directory.mkdir(parents=True, exist_ok=True)
        if not agree(problem is None):
            raise CheckpointError(problem or f"{self._directory}: no checkpoint is intact")
        # step -> the best step it names; all of them finished, the last of them intact
        self._best = {
            step: step_dirs.read_manifest(self._directory, step).get("best_step") for step in available(self._directory)
        }
        self._saver = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def latest_step(self) -> int | None:
        """The newest step that is saved or being saved. None before the first."""
        return max(self._best, default=None)

    def save(self, step: int, state: PyTree, loop: dict[str, Any]) -> None:
        """Starts saving; `state` may be donated as soon as this returns.

        Args:
          step: where it has a checkpoint already, that one is replaced.
          state: arrays only.
          loop: JSON values of the training loop; its "best_step" names a saved step to be kept (this one included).

        Raises:
          CheckpointError: this save or the one before it failed.
        """
        self.wait()
        if self._best.pop(step, 0) != 0:
            if is_primary():
                step_dirs.delete(self._directory, step)
            agree(True)  # the others must not find it
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), loop=ocp.args.JsonSave(loop))
        self._size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        try:
            if is_primary():
                step_dirs.saving_path(self._directory, step).touch()
            self._saver.save(self._directory / str(step), args=items)
        except Exception as error:
            raise CheckpointError(self._reason(error, self._directory / str(step))) from error
        self._best[step] = loop.get("best_step")
        self._start(self._finish, step)

    def record(self, step: int, loop: dict[str, Any]) -> None:
        """Starts recording the loop's journal for a saved step, in place of the journal at the save.

        It is written to the step's manifest; the state is not written again.

        Raises:
          CheckpointError: the save before it failed.
        """
        self.wait()
        self._best[step] = loop.get("best_step")
        self._start(self._record, step, loop)

    def restore(self, abstract: PyTree, step: int | None = None) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest checkpoint that is intact and fits, or that of `step`: (step, state, loop). None before the first.

        Newer ones are put aside, with a warning; where none can be restored, nothing is renamed.

        Args:
          abstract: `jax.ShapeDtypeStruct`s with the shardings that the arrays shall have; those they were saved with
            do not matter.

        Raises:
          CheckpointError: `step` is missing or damaged, or the checkpoint does not fit `abstract`.
        """
        self.wait()
        if step is not None or not self._best:
            return None if step is None else load(self._directory, abstract, step)
        problems: dict[int, CheckpointError] = {}
        for step in sorted(self._best, reverse=True):
            try:
                found = load(self._directory, abstract, step)
            except CheckpointError as error:
                problems[step] = error
                continue
            for newer, problem in problems.items():
                del self._best[newer]
                if is_primary():
                    aside = step_dirs.put_aside(self._directory, newer)
                    log.warning("%s; it is put aside as %s", problem, aside)
            return found
        raise problems[max(problems)]

    def wait(self) -> None:
        """Blocks until the last save is finished, manifest and all.

        Raises:
          CheckpointError: it failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            mute_at_exit()
            raise CheckpointError(self._reason(error, self._directory)) from error

    def _reason(self, error: BaseException, path: epath.Path) -> str:
        if isinstance(error, StorageError):
            return str(error)
        return disk.reason(error, path, self._size)

    def close(self) -> None:
        """`wait`, then frees the threads."""
        try:
            self.wait()
        finally:
            self._saver.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            self.close()
        except CheckpointError as second:
            if error is None:
                raise
            if not isinstance(error, CheckpointError | StorageError):  # which say it: the first is why the run ends
                log.error("%s", second)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        """In a thread; `wait` raises what it raises."""

        def run() -> None:
            try:
                work(*args)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def _finish(self, step: int) -> None:
        """Waits for the commit, writes the manifest, deletes what need not be kept."""
        try:
            self._saver.wait_until_finished()
            if is_primary():
                self._committing()
                files = step_dirs.fingerprint(self._directory / str(step), self._hash_limit)
                step_dirs.write_manifest(self._directory, step, {"best_step": self._best[step], "files": files})
                step_dirs.saving_path(self._directory, step).unlink()
            self._prune()
        except BaseException:
            self._best.pop(step, None)
            raise

    def _record(self, step: int, loop: dict[str, Any]) -> None:
        if is_primary():
            self._committing()
            manifest = step_dirs.read_manifest(self._directory, step)
            if not manifest:
                raise OSError(f"the manifest of step {step} is gone")
            step_dirs.write_manifest(self._directory, step, {**manifest, "best_step": self._best[step], "loop": loop})
        self._prune()

    def _prune(self) -> None:
        kept = set(sorted(self._best)[-self._keep :])
        kept |= {self._best[other] for other in kept}
        for old in set(self._best) - kept:
            del self._best[old]
            if is_primary():
                step_dirs.delete(self._directory, old)
