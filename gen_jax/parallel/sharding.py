"""Meshes and sharding rules. A rule is data: (regex on a parameter's path, how to shard it).

A mesh has three axes. Batch rows are sharded over `data` and `fsdp` together. Rules shard parameters over `fsdp`, where
a device stores a shard and gathers the whole to compute, and over `model`, where it computes with its shard only.

A rule gives a partition spec (a tuple of axis names and None), "fsdp" (shard the largest axis over `fsdp`) or
"replicate". A spec is for one layer: the leading axis of scanned layers, which are stacked under `layers`, is never
sharded. An axis that `fsdp` does not divide is replicated. For `model` that is an error, as is a parameter that no rule
matches. The first rule that matches decides.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from pydantic import model_validator

from gen_jax.core import leaves, ops
from gen_jax.core.state import Net, PyTree, State, path_name
from gen_jax.errors import ConfigError
from gen_jax.settings import Settings, Whole, nearest

Rules = Sequence[tuple[str, str | tuple]]


class MeshConfig(Settings):
    """Devices on each axis. One of them may be -1, which takes the remaining devices."""

    data: Whole = -1
    """Copies of the parameters; each copy gets its share of the batch."""
    fsdp: Whole = 1
    """Devices that shard both the parameters and the batch."""
    model: Whole = 1
    """Devices that shard the matrices (tensor parallelism)."""

    @model_validator(mode="after")
    def _sizes(self) -> "MeshConfig":
        sizes = self.model_dump()
        for name, size in sizes.items():
            if size < 1 and size != -1:
                raise ValueError(f"{name}: expected a number of devices, or -1, got {size}")
        if len(rest := [name for name, size in sizes.items() if size == -1]) > 1:
            raise ValueError(f"{rest[1]}: expected one axis of -1, got {' and '.join(rest)}")
        return self


def make_mesh(cfg: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh ("data", "fsdp", "model"), with the devices of a process side by side.

    Raises:
      ConfigError: the devices do not fit, or a process would have none.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    sizes = cfg.model_dump()
    got = " x ".join(map(str, sizes.values()))
    left, over = divmod(len(devices), math.prod(size for size in sizes.values() if size != -1))
    if left < 1 or (over and -1 in sizes.values()):
        raise ConfigError(f"config.mesh: expected {' x '.join(sizes)} to fit {len(devices)} devices, got {got}")
    shape = [left if size == -1 else size for size in sizes.values()]
    used = devices[: math.prod(shape)]
    grid = np.asarray(used).reshape(shape)
    if (found := len({device.process_index for device in used})) < jax.process_count():
        raise ConfigError(
            f"config.mesh: expected devices of all {jax.process_count()} processes, {got} has those of {found}"
        )
    # Explicit axes, the default of jax.make_mesh, break the specs of shard_map
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def param_spec(path: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh) -> P:
    """The spec of one parameter by the first rule that matches its whole path."""
    rule = next((rule for pattern, rule in rules if re.fullmatch(pattern, path)), None)
    if rule is None:
        raise ConfigError(
            f"config.sharding: no rule matches the parameter {path}; end the list with ('.*', 'replicate')"
        )
    if rule == "replicate":
        return P()
    if rule == "fsdp":
        return _fsdp(path, shape, mesh)
    if leaves.stacked(path):
        rule = (None, *rule)
    if unknown := [axis for axis in rule if axis is not None and axis not in mesh.shape]:
        raise ConfigError(
            f"config.sharding: the rule for {path} names the axis {unknown[0]!r}{nearest(unknown[0], mesh.shape)}"
        )
    spec = [None if a == "fsdp" and n % mesh.shape[a] else a for n, a in zip(shape, rule, strict=False)]
    named = [axis for axis in rule if axis]
    divides = all(n % mesh.shape[a] == 0 for n, a in zip(shape, spec, strict=False) if a)
    if len(rule) > len(shape) or len(set(named)) < len(named) or not divides:
        raise ConfigError(
            f"config.sharding: the rule {rule} does not fit {path} {shape} on the mesh {dict(mesh.shape)}"
        )
    return P(*spec)


def _fsdp(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Shards the largest axis that `fsdp` divides. Never the layer axis of scanned layers."""
    size = mesh.shape["fsdp"]
    axes = [i for i in range(leaves.stacked(path), len(shape)) if shape[i] % size == 0 and shape[i] >= size]
    if size == 1 or not axes:
        return P()
    axis = max(axes, key=lambda i: shape[i])
    return P(*(None,) * axis, "fsdp")


def param_specs(params: PyTree, rules: Rules, mesh: Mesh) -> PyTree:
    """Specs like `params` (arrays or shapes)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: param_spec(path_name(path), leaf.shape, rules, mesh), params
    )


def _moment_spec(params: PyTree, specs: PyTree) -> Callable:
    """(path, moment) -> spec: that of the parameter at its path, if both have the same shape.

    Others, such as Adafactor's factors and counts, are replicated.
    """
    shapes = {path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}
    places = dict(zip(shapes, jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, P)), strict=True))

    def spec(path: tuple, moment: Any) -> P:
        names = [path_name((key,)) for key in path]
        inside = ("/".join(names[i:j]) for i in range(len(names)) for j in range(len(names), i, -1))
        name = next((name for name in inside if name in shapes), None)
        return places[name] if name and shapes[name] == moment.shape else P()

    return spec


def _net_specs(net: Net, rules: Rules, mesh: Mesh) -> Net:
    specs = param_specs(net.params, rules, mesh)
    stats = jax.tree.map(lambda _: P(), net.stats)
    opt = jax.tree_util.tree_map_with_path(_moment_spec(net.params, specs), net.opt)
    ema = None if net.ema is None else {"params": specs, "stats": stats, "updates": P()}
    return Net(specs, opt, stats, ema)


def state_shardings(state: State, rules: Rules, mesh: Mesh) -> State:
    """NamedShardings like `state` (shapes): parameters, averages and moments by the rules, the carry by rows.

    `extra` is replicated.
    """
    nets = {name: _net_specs(net, rules, mesh) for name, net in state.nets.items()}
    carry, extra = jax.tree.map(lambda _: P(ops.ROWS), state.carry), jax.tree.map(lambda _: P(), state.extra)
    specs = State(P(), nets, carry, extra)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, P))


def gathered(state: State, shardings: State) -> State:
    """The state as a step reads it: in networks with convolutions, parameters sharded over `fsdp` alone are gathered.

    Otherwise a convolution whose kernel or input is sharded over channels would be computed in pieces. On a mesh that
    also has `model`, the partitioner of jax 0.10.2 adds these up wrongly: two convolutions in a row, on 2 x 2 x 2
    devices, gave twice the sum. Other networks are left to the compiler, which gathers each matrix where it is used.
    Gathering all at once would take the memory that `fsdp` saves.
    """

    def whole(x, placed):
        return ops.constrain(x) if set(placed.spec) - {None} == {"fsdp"} else x

    nets = dict(state.nets)
    for name, net in state.nets.items():
        if any(
            x.ndim - leaves.stacked(path_name(path)) > 2  # a kernel with places
            for path, x in jax.tree_util.tree_leaves_with_path(net.params)
        ):
            params = jax.tree.map(whole, net.params, shardings.nets[name].params)
            nets[name] = dataclasses.replace(net, params=params)
    return dataclasses.replace(state, nets=nets)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def rows(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Batch rows sharded over `data` and `fsdp`, after `leading` axes that are not sharded."""
    return NamedSharding(mesh, P(*(None,) * leading, ops.ROWS))


def local_rows(mesh: Mesh, n: int) -> slice:
    """The batch rows on the devices of this process, out of n. They are consecutive, as its devices are."""
    held = rows(mesh).addressable_devices_indices_map((n,)).values()
    parts = [index[0].indices(n) for index in held if index]
    return slice(min(start for start, _, _ in parts), max(stop for _, stop, _ in parts))


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Puts host arrays on the devices of all processes. Each process gives the shards of its own devices."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def with_shardings(shapes: PyTree, shardings: PyTree) -> PyTree:
    """ShapeDtypeStructs with shardings, as a restore takes them."""
    return jax.tree.map(lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings)


def describe(mesh: Mesh) -> dict[str, Any]:
    return {"axes": dict(mesh.shape), "devices": [str(d) for d in mesh.devices.flat]}
