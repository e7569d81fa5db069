"""Checkpoints that are verified before they are trusted.

Built on Orbax's `AsyncCheckpointer` rather than on its `CheckpointManager`: which steps exist, which are intact and
which stay is decided here, by the manifests of `step_dirs`.
"""

import hashlib
import json
import logging
import re
import threading
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from gen_jax import step_dirs
from gen_jax.errors import CheckpointError
from gen_jax.run_dir import absolute, is_primary, write_atomic
from gen_jax.settings import Count, Positive, Settings
from gen_jax.state import PyTree, path_name
from gen_jax.step_dirs import available

log = logging.getLogger(__name__)


class Config(Settings):
    """Fields of `config.checkpoint`.

    keep: so many last checkpoints stay, and the best one that each of them names.
    hash_limit_mb: above this size a checkpoint's files are checked by their sizes alone.
    """

    keep: Positive = 3
    hash_limit_mb: Count = 4096


class Checkpoints:
    """The checkpoints of a run that is training. Every process calls every method; process 0 keeps the manifests.

    Opening it settles what a kill left behind: unfinished files are removed, and the steps newer than the newest
    intact one are renamed aside (`7.damaged`), with a warning. Use it as a context: saves are asynchronous, and
    leaving without `close` loses the last one.

    Raises:
      CheckpointError: there are finished checkpoints and none is intact.
    """

    def __init__(self, directory: epath.PathLike, config: Config):
        self._directory = absolute(directory)
        self._config = config
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        problem = None
        if is_primary():
            self._directory.mkdir(parents=True, exist_ok=True)
            problem = step_dirs.settle(self._directory)
        if not _agree(problem is None):
            raise CheckpointError(problem or f"{self._directory}: no checkpoint is intact")
        # step -> the best step it names; all of them finished, the last of them intact
        self._best = {
            step: step_dirs.read_manifest(self._directory, step).get("best_step") for step in available(self._directory)
        }
        self._saver = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    @property
    def latest(self) -> int | None:
        """The newest finished step."""
        return max(self._best, default=None)

    def save(self, step: int, state: PyTree, loop: dict[str, Any]) -> None:
        """Starts saving; `state` may be donated as soon as this returns.

        Args:
          step: a step that has no checkpoint yet.
          state: arrays only.
          loop: JSON values of the training loop; its "best_step" names a saved step to be kept (this one included).

        Raises:
          CheckpointError: the step exists, or this save or the one before it failed.
        """
        self.wait()
        if step in self._best:
            raise CheckpointError(f"{self._directory}: step {step} is saved already")
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), loop=ocp.args.JsonSave(loop))
        try:
            self._saver.save(self._directory / str(step), args=items)
        except Exception as error:
            raise CheckpointError(f"{self._directory}: step {step} was not saved: {_line(error)}") from error
        self._thread = threading.Thread(target=self._finish, args=(step, loop.get("best_step")), name="checkpoint")
        self._thread.start()

    def restore(self, abstract: PyTree, step: int | None = None) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest intact checkpoint, or that of `step`: (step, state, loop). None where there is none yet.

        Args:
          abstract: `jax.ShapeDtypeStruct`s with the shardings that the arrays shall have; those they were saved with
            do not matter.

        Raises:
          CheckpointError: `step` is missing or damaged, or the checkpoint does not fit `abstract`.
        """
        self.wait()
        step = self.latest if step is None else step
        return None if step is None else load(self._directory, abstract, step)

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
            raise CheckpointError(f"{self._directory}: the last save failed: {_line(error)}") from error

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
            log.error("%s", second)  # the first error says why the run ends

    def _finish(self, step: int, best_step: int | None) -> None:
        """In a thread: waits for the commit, writes the manifest, deletes what need not be kept."""
        try:
            self._saver.wait_until_finished()
            if is_primary():
                files = step_dirs.fingerprint(self._directory / str(step), self._config.hash_limit_mb * 10**6)
                manifest = {"step": step, "best_step": best_step, "files": files}
                write_atomic(step_dirs.manifest_path(self._directory, step), json.dumps(manifest, indent=1))
            self._best[step] = best_step
            kept = set(sorted(self._best)[-self._config.keep :])
            kept |= {self._best[step] for step in kept}
            for old in set(self._best) - kept:
                del self._best[old]
                if is_primary():
                    step_dirs.delete(self._directory, old)
        except BaseException as error:
            self._error = error


def load(
    directory: epath.PathLike,
    abstract: PyTree,
    step: int | Literal["latest", "best"] = "latest",
    *,
    partial: bool = False,
    allow: Sequence[str] = (),
) -> tuple[int, PyTree, dict[str, Any]]:
    """Reads a verified checkpoint without touching the directory: (step, tree, loop).

    Args:
      directory: `checkpoints/` of a run, which may be running.
      abstract: `jax.ShapeDtypeStruct`s with shardings (default: the first device), a `State` or, with `partial`, nested
        dicts of a part of one, such as {"nets": {"net": {"params": ...}}}: paths are compared by name.
      step: "latest" is the newest intact one, "best" the step that it names as the best.
      partial: the checkpoint may hold arrays that `abstract` lacks.
      allow: regexes; a leaf whose path (`nets/net/params/head/.*`) one matches in full may be absent from the
        checkpoint or have another shape there, and comes back as None.

    Raises:
      CheckpointError: no such checkpoint, or damaged, or it does not fit (names the first path and both shapes).
    """
    directory = absolute(directory)
    if not isinstance(step, int):
        newest = _newest_intact(directory)
        step = newest if step == "latest" else _best_of(directory, newest)
    if problem := step_dirs.damage(directory, step):
        raise CheckpointError(f"{directory}: step {step} cannot be used: {problem}")
    try:
        return step, *_read(directory / str(step), abstract, partial, allow)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{directory}: step {step} was not restored: {_line(error)}") from error


def digest(directory: epath.PathLike, step: int) -> str:
    """A name for the contents of a checkpoint, for caches of what was computed from it."""
    directory = absolute(directory)
    if problem := step_dirs.damage(directory, step):
        raise CheckpointError(f"{directory}: step {step} cannot be used: {problem}")
    return hashlib.sha256(step_dirs.manifest_path(directory, step).read_bytes()).hexdigest()[:16]


def _read(path: epath.Path, abstract: PyTree, partial: bool, allow: Sequence[str]) -> tuple[PyTree, dict[str, Any]]:
    saved = ocp.PyTreeCheckpointHandler().metadata(path / "state").tree
    leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract)
    wanted = {path_name(key): leaf for key, leaf in leaves}
    found = {path_name(key): leaf for key, leaf in jax.tree_util.tree_flatten_with_path(saved)[0]}
    chosen = {}
    for name in wanted if partial else wanted | found:
        have, want = _shape(found.get(name)), _shape(wanted.get(name))
        if have == want:
            chosen[name] = wanted[name]
        elif not any(re.fullmatch(rule, name) for rule in allow):
            raise CheckpointError(f"{path}: {name} does not fit: the checkpoint has {have}, the model {want}")

    def template(key, _):
        return chosen.get(path_name(key), ocp.PLACEHOLDER)

    template = jax.tree_util.tree_map_with_path(template, saved)
    args = ocp.args.PyTreeRestore(template, restore_args=jax.tree.map(_restore_args, template))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        restored = reader.restore(path, args=ocp.args.Composite(state=args, loop=ocp.args.JsonRestore()))
    arrays = {path_name(key): leaf for key, leaf in jax.tree_util.tree_flatten_with_path(restored.state)[0]}
    return treedef.unflatten(arrays[name] if name in chosen else None for name in wanted), restored.loop


def _restore_args(leaf: Any) -> ocp.RestoreArgs:
    if leaf is ocp.PLACEHOLDER:
        return ocp.RestoreArgs()
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _shape(leaf: Any) -> str:
    """`float32[3, 4]`."""
    return "nothing" if leaf is None else f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _newest_intact(directory: epath.Path) -> int:
    for step in reversed(available(directory)):
        if problem := step_dirs.damage(directory, step):
            log.warning("%s: step %d is skipped: %s", directory, step, problem)
        else:
            return _agree(step)
    raise CheckpointError(f"{directory}: no finished and intact checkpoint")


def _best_of(directory: epath.Path, step: int) -> int:
    best = step_dirs.read_manifest(directory, step).get("best_step")
    if best is None:
        raise CheckpointError(f"{directory}: step {step} names no best step")
    return best


def _agree(value: Any) -> Any:
    """Process 0's value, in every process."""
    if jax.process_count() == 1:
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def _line(error: BaseException) -> str:
    """The first line of an error, with its kind."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
