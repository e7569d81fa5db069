"""Stops a run at the first value that is not finite. `gen-jax replay` reads what it records."""

import dataclasses
import io
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.core.state import Mean, PyTree, State, path_name
from gen_jax.errors import ConfigError, NonFiniteError
from gen_jax.io import disk, json_text, paths
from gen_jax.io.disk import write_atomic
from gen_jax.parallel.processes import is_primary
from gen_jax.runs.run_dir import RunDir
from gen_jax.training.program import Program


@dataclasses.dataclass(frozen=True)
class Guard:
    """Ends a run at its first step that is not finite.

    Writes the number of the step to `failed/` of the run directory, and the batch if it is on this process.
    """

    program: Program
    run_dir: RunDir

    def check_terms(self, terms: dict[str, Mean], step: int) -> None:
        """Checks the training terms of one step, whose totals are floats on the host.

        Raises:
          NonFiniteError: a term is not finite. The message names all such terms and their networks.
        """
        bad = {name: mean for name, mean in terms.items() if not math.isfinite(mean.total)}
        if bad:
            found = ", ".join(f"train/{name} is {mean.total}" for name, mean in bad.items())
            self._fail(found, ", ".join(dict.fromkeys(mean.net for mean in bad.values() if mean.net)), step)

    def check_state(self, state: State, step: int) -> None:
        """Checks a state before it is saved.

        Raises:
          NonFiniteError: a leaf is not finite. The message names the first such leaf and its network.
        """
        if not finite(state):
            leaves = jax.tree_util.tree_leaves_with_path(state)
            path, name = next((path, path_name(path)) for path, leaf in leaves if not finite(leaf))
            self._fail(f"{name} is not finite", path_name(path[1:2]) if name.startswith("nets/") else "", step)

    def _fail(self, found: str, net: str, step: int) -> None:
        at = f"{found} at step {step}" + f", network {net}" * bool(net)
        if is_primary():
            _make_folder(self.run_dir)
            write_atomic(_record(self.run_dir), json.dumps({"step": step, "found": at}))
        if jax.process_count() == 1:
            write_arrays(self.run_dir, "batch", batch_of(self.program, step - 1))
        command = f"gen-jax replay --workdir={paths.shortest(self.run_dir.path)}"
        raise NonFiniteError(f"{at}; see config.optim: lr, clip, skip_nonfinite; {command} names the operation")


def batch_of(program: Program, step: int) -> PyTree:
    """The batch that the step after `step` steps trains on, [B, ...], on the host."""
    return jax.device_get(program.feeder.feed.assemble(program.feeder.feed.resident, program.feeder.feed.rows(step)))


def write_arrays(run_dir: RunDir, name: str, tree: PyTree) -> None:
    """Writes a tree as `failed/<name>.npz`, its arrays by path."""
    file, leaves = io.BytesIO(), jax.tree_util.tree_leaves_with_path(tree)
    np.savez(file, **{path_name(path): leaf for path, leaf in leaves})  # pyright: ignore[reportArgumentType] - its stub
    _make_folder(run_dir)
    write_atomic(run_dir.path / "failed" / f"{name}.npz", file.getvalue())


def _make_folder(run_dir: RunDir) -> None:
    with disk.writing(folder := run_dir.path / "failed"):
        folder.mkdir(exist_ok=True)


def _record(run_dir: RunDir) -> Any:
    return run_dir.path / "failed" / "step.json"


def failed_step(run_dir: RunDir) -> int:
    """The step that the guard has recorded.

    Raises:
      ConfigError: there is no such record.
    """
    file = _record(run_dir)
    if not file.exists():
        raise ConfigError(f"workdir: expected a run with a step that is not finite, found no {file}")
    try:
        return int(json_text.loads(file.read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"workdir: {file} is damaged; train again to write it") from None


@jax.jit
def finite(tree: PyTree) -> Any:
    """Whether all floats of a tree are finite, [] bool."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in floats])) if floats else jnp.asarray(True)
