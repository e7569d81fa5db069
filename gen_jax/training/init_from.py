"""Parameters to start from: another run's checkpoint, its low-rank updates merged."""

import dataclasses
import functools
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from gen_jax.core import lora
from gen_jax.core.state import Net, PyTree, State, combine, path_name
from gen_jax.errors import ConfigError
from gen_jax.io import paths as paths_text
from gen_jax.parallel.processes import is_primary
from gen_jax.runs.restore import describe, load, paths, saved_tree, step_number
from gen_jax.runs.run_dir import RunDir
from gen_jax.training import gpt2
from gen_jax.training.program import Program
from gen_jax.training.seed_report import only

SHOWN = 5  # names of leaves in a line


def first_state(program: Program) -> State:
    """The state of a run without a checkpoint: new parameters, or those that `config.init_from` names."""
    state, source = program.init(), program.experiment.init_from
    if source.workdir:
        state = load_into(state, source.workdir, source.step, source.nets, source.allow, source.reset)
    if source.safetensors:
        state = gpt2.load_into(state, source.safetensors, program.model.network.kv_shape[0], source.reset)
        names = [f"params/{name}" for name in paths(state.nets["net"].params)]
        new = [name for name in names if any(re.fullmatch(rule, f"net/{name}") for rule in source.reset)]
        new += [name for name in names if f"{lora.SUFFIX}/" in name]
        say("net", source.safetensors, [name for name in names if name not in new], new, [])
    return state


def load_into(
    state: State,
    workdir: epath.PathLike,
    step: int | str = "latest",
    nets: Mapping[str, str] | None = None,
    allow: Sequence[str] = (),
    reset: Sequence[str] = (),
) -> State:
    """A state with variables from another run: its averages where it keeps them, as in evaluation.

    Low-rank updates of that run are merged into the matrices that they update; those of `state` stay as they are.

    Args:
      state: a new one; optimizer states, step, carry and extra stay as they are, averages start from what was loaded.
      workdir: the other run.
      step: as in `load`.
      nets: {network here: network there}; empty = every network, by the same name.
      allow: regexes on `<network here>/params/<path>` and `<network here>/stats/<collection>/<path>`: a leaf that one
        matches in full, and that is missing there or has another shape, keeps its value.
      reset: the same, whether it fits or not: a new head.

    Raises:
      ConfigError: no run there, or several seeds, or no such network here.
      CheckpointError: no usable checkpoint there, or it does not fit.
    """
    other = only(RunDir(workdir), "config.init_from.workdir")
    nets = nets or {name: name for name in state.nets}
    if missing := sorted(set(nets) - set(state.nets)):
        raise ConfigError(f"config.init_from.nets: expected some of {sorted(state.nets)}, found {missing}")
    step = step_number(other.checkpoints, step)
    new, source = {}, f"{paths_text.shortest(other.path)} at step {step}"
    for here, there in nets.items():
        new[here], found = _loaded_net(state.nets[here], other.checkpoints, step, (here, there), allow, reset)
        say(here, source, *found)
    for here in state.nets.keys() - nets.keys():
        say(here, source, [], ["all of it"], [])
    return dataclasses.replace(state, nets={**state.nets, **new})


def say(net: str, source: str, restored: Sequence[str], new: Sequence[str], left_out: Sequence[str]) -> None:
    """Prints which leaves of a network came from `source`, which are new, and which of the source's were left out."""
    if is_primary():
        lists = [f"{name}: {_few(leaves)}" for name, leaves in (("new", new), ("left out", left_out)) if leaves]
        line = "; ".join([f"{net}: {len(restored)} leaves restored from {source}", *lists])
        print(f"init_from: {line}", file=sys.stderr)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def _loaded_net(
    net: Net, directory: epath.Path, step: int, names: tuple[str, str], allow: Sequence[str], reset: Sequence[str]
) -> tuple[Net, tuple[list[str], list[str], list[str]]]:
    """The network; then the names of leaves that were restored, that are new, and that were left out."""
    here, there = names
    plain, updates = lora.split(net.params)
    fresh = {"params": plain, "stats": net.stats}
    saved, prefix = paths(saved_tree(directory, step)), f"nets/{there}/"
    if any(name.startswith(f"{prefix}ema/") for name in saved):
        prefix += "ema/"

    def matches(rules: Sequence[str], name: str) -> bool:
        return any(re.fullmatch(rule, f"{here}/{name}") for rule in rules)

    def wanted(path: tuple, x: jax.Array) -> jax.ShapeDtypeStruct | None:
        kept = matches(reset, path_name(path))
        return None if kept else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    abstract = jax.tree_util.tree_map_with_path(wanted, fresh)
    theirs = _updates(saved, f"{prefix}params/", abstract["params"])
    keys = prefix.strip("/").split("/")
    tree = abstract | {"params": lora.join(abstract["params"], theirs)}
    tree = functools.reduce(lambda inner, key: {key: inner}, reversed(keys), tree)
    _, tree, _ = load(
        directory, tree, step, partial=True, optional=lambda name: matches(allow, name.removeprefix(prefix))
    )
    loaded = functools.reduce(lambda outer, key: outer[key], keys, tree)
    if theirs:
        placed = jax.tree.map(lambda x: x.sharding, lora.split(loaded["params"])[0])
        loaded["params"] = jax.jit(lora.merge, out_shardings=placed)(loaded["params"])
    restored, every = paths(loaded), paths(fresh | {"params": net.params})
    unused = [name.removeprefix(prefix) for name in saved if name.startswith((f"{prefix}params/", f"{prefix}stats/"))]
    merged = paths({"params": theirs})
    unused = [name for name in unused if name not in restored and name not in merged]
    variables = combine(loaded, fresh)
    variables["params"] = lora.join(variables["params"], updates)
    ema = None if net.ema is None else net.ema | jax.tree.map(jnp.copy, variables)  # buffers of its own: donated
    found = [*restored], [name for name in every if name not in restored], unused
    return Net(variables["params"], net.opt, variables["stats"], ema), found


def _updates(saved: Mapping[str, Any], prefix: str, params: PyTree) -> PyTree:
    """Which low-rank updates of a run to read: those of leaves of `params` (shapes) with the same shape there."""
    wanted, tree = paths(params), {}
    for name, leaf in saved.items():
        matrix, mark, factor = name.removeprefix(prefix).partition(f"{lora.SUFFIX}/")
        have = wanted.get(matrix)
        if mark and have is not None and describe(saved[prefix + matrix]) == describe(have):
            *folders, last = matrix.split("/")
            parent = functools.reduce(lambda tree, folder: tree.setdefault(folder, {}), folders, tree)
            whole = getattr(have.sharding, "mesh", None)  # an update is read whole by every device
            sharding = have.sharding if whole is None else NamedSharding(whole, PartitionSpec())
            shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            parent.setdefault(f"{last}{lora.SUFFIX}", {})[factor] = shape
    return tree
