"""Reads verified checkpoints, of runs that may be running."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from gen_jax.core.state import PyTree, path_name
from gen_jax.errors import CheckpointError, ConfigError, kind_and_line
from gen_jax.io.gcs import absolute
from gen_jax.parallel.processes import agree, is_primary
from gen_jax.runs import step_dirs
from gen_jax.runs.step_dirs import available

log = logging.getLogger(__name__)


def load(
    directory: epath.PathLike,
    abstract: PyTree,
    step: int | str = "latest",
    *,
    partial: bool = False,
    optional: Callable[[str], bool] = lambda name: False,
) -> tuple[int, PyTree, dict[str, Any]]:
    """Reads a verified checkpoint without touching the directory: (step, tree, loop).

    Args:
      directory: `checkpoints/` of a run, which may be running.
      abstract: `jax.ShapeDtypeStruct`s with shardings (default: the first device), a `State` or, with `partial`, nested
        dicts of a part of one, such as {"nets": {"net": {"params": ...}}}: paths are compared by name.
      step: a number, "latest" (the newest intact one) or "best" (the one that the newest intact one names).
      partial: the checkpoint may hold arrays that `abstract` lacks.
      optional: path (`nets/net/params/head/kernel`) -> whether that leaf may be missing in the checkpoint, or have
        another shape there, and then comes back as None.

    Raises:
      CheckpointError: no such checkpoint, or damaged, or it does not fit (names the first path and both shapes).
    """
    directory = absolute(directory)
    step = step_number(directory, step)
    problem = step_dirs.damage(directory, step) if is_primary() else None  # it reads all files
    if not agree(problem is None):
        raise CheckpointError(f"{directory}: step {step} cannot be used: {problem or 'process 0 says why'}")
    try:
        return step, *_read(directory, step, abstract, partial, optional)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{directory}: step {step} was not restored: {kind_and_line(error)}") from error


def saved_tree(directory: epath.Path, step: int) -> PyTree:
    """The tree of a checkpoint's state, with a description of the array at each leaf."""
    try:
        return ocp.PyTreeCheckpointHandler().metadata(directory / str(step) / "state").tree
    except Exception as error:
        raise CheckpointError(f"{directory}: step {step} is not readable: {kind_and_line(error)}") from error


def paths(tree: PyTree) -> dict[str, Any]:
    return {path_name(key): leaf for key, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _read(
    directory: epath.Path, step: int, abstract: PyTree, partial: bool, optional: Callable[[str], bool]
) -> tuple[PyTree, dict[str, Any]]:
    saved = saved_tree(directory, step)
    wanted, found = paths(abstract), paths(saved)
    chosen = {}
    for name in wanted if partial else wanted | found:
        have, want = describe(found.get(name)), describe(wanted.get(name))
        if have == want:
            chosen[name] = wanted[name]
        elif not optional(name):
            raise CheckpointError(f"{directory}: step {step}: {name}: the checkpoint has {have}, the model {want}")
    template = jax.tree_util.tree_map_with_path(lambda key, _: chosen.get(path_name(key), ocp.PLACEHOLDER), saved)
    args = ocp.args.PyTreeRestore(template, restore_args=jax.tree.map(_restore_args, template))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        items = ocp.args.Composite(state=args, loop=ocp.args.JsonRestore())
        restored = reader.restore(directory / str(step), args=items)
    arrays = paths(restored.state)
    leaves = [arrays[name] if name in chosen else None for name in wanted]
    loop = step_dirs.read_manifest(directory, step).get("loop", restored.loop)
    return jax.tree.structure(abstract).unflatten(leaves), loop


def _restore_args(leaf: Any) -> ocp.RestoreArgs:
    if leaf is ocp.PLACEHOLDER:
        return ocp.RestoreArgs()
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def describe(leaf: Any) -> str:
    """`float32[3, 4]`."""
    return "nothing" if leaf is None else f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _newest_intact(directory: epath.Path) -> int:
    found = -1
    for step in reversed(available(directory)) if is_primary() else ():
        if not (problem := step_dirs.damage(directory, step)):
            found = step
            break
        log.warning("%s: step %d is skipped: %s", directory, step, problem)
    if (found := agree(found)) >= 0:
        return found
    raise CheckpointError(f"{directory}: no finished and intact checkpoint")


def step_number(directory: epath.Path, step: int | str) -> int:
    """The step that a number, "latest" or "best" means."""
    if isinstance(step, int) or (step.isdecimal() and len(step) < 20):
        return int(step)
    if step not in ("latest", "best"):
        raise ConfigError(f'step: expected "latest", "best" or a number, found {step!r}')
    newest = _newest_intact(directory)
    if step == "latest":
        return newest
    best = step_dirs.read_manifest(directory, newest).get("best_step")
    if best is None:
        raise CheckpointError(f"{directory}: step {newest} names no best step")
    return best
