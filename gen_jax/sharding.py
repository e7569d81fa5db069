"""Meshes and sharding rules. A rule is data: (regex on a parameter's path, what to do with it).

What to do is a partition spec (a tuple of axis names and None), "fsdp" (cut over the data axis) or "replicate". A spec
is that of one layer: the leading axis of scanned layers, which are stacked under `layers`, is never cut.
The first rule that matches decides; a parameter that none matches is an error.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gen_jax.errors import ConfigError
from gen_jax.gradients import Optimiser
from gen_jax.settings import Positive, Settings
from gen_jax.state import Net, PyTree, State, partition, path_name

Rules = Sequence[tuple[str, str | tuple]]
SCANNED = "layers/"  # in the path of parameters [L, ...]


class MeshConfig(Settings):
    """Devices on each axis; data = -1 takes what `model` leaves."""

    data: int = -1
    model: Positive = 1


def make_mesh(cfg: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh ("data", "model"), the devices of a process side by side.

    Raises:
      ConfigError: the devices do not fit, or a process would have none.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    data = len(devices) // cfg.model if cfg.data == -1 else cfg.data
    if data < 1 or data * cfg.model > len(devices) or (cfg.data == -1 and len(devices) % cfg.model):
        raise ConfigError(
            f"config.mesh: expected data x model to fit {len(devices)} devices, got {cfg.data} x {cfg.model}"
        )
    grid = np.asarray(devices[: data * cfg.model]).reshape(data, cfg.model)
    if (found := len({d.process_index for d in grid.flat})) < jax.process_count():
        raise ConfigError(
            f"config.mesh: expected devices of all {jax.process_count()} processes, {cfg.data} x {cfg.model} has those "
            f"of {found}"
        )
    # Explicit axes, the default of jax.make_mesh, break the specs of shard_map
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


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
    if SCANNED in path:
        rule = (None, *rule)
    if unknown := [axis for axis in rule if axis is not None and axis not in mesh.shape]:
        raise ConfigError(f"config.sharding: the rule for {path} names the axis {unknown[0]!r}; known: data, model")
    if len(rule) > len(shape) or any(shape[i] % mesh.shape[axis] for i, axis in enumerate(rule) if axis):
        raise ConfigError(
            f"config.sharding: the rule {rule} does not fit {path} {shape} on the mesh {dict(mesh.shape)}"
        )
    return P(*rule)


def _fsdp(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Cuts the largest axis that the data axis divides; never the layer axis of scanned layers."""
    size = mesh.shape["data"]
    first = 1 if SCANNED in path else 0
    axes = [i for i in range(first, len(shape)) if shape[i] % size == 0 and shape[i] >= size]
    if size == 1 or not axes:
        return P()
    axis = max(axes, key=lambda i: shape[i])
    return P(*(None,) * axis, "data")


def param_specs(params: PyTree, rules: Rules, mesh: Mesh) -> PyTree:
    """Specs like `params` (arrays or shapes)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: param_spec(path_name(path), leaf.shape, rules, mesh), params
    )


def _net_specs(net: Net, rules: Rules, mesh: Mesh, optimiser: Optimiser | None) -> Net:
    specs = param_specs(net.params, rules, mesh)
    stats = jax.tree.map(lambda _: P(), net.stats)
    opt = jax.tree.map(lambda _: P(), net.opt)
    if optimiser is not None:
        mask = optimiser.trainable(net.params)
        shapes, trainable = partition(net.params, mask)[0], partition(specs, mask)[0]
        # a moment that does not have its parameter's rank (Adafactor's factors) is replicated
        opt = optax.tree_map_params(
            optimiser.tx,
            lambda moment, spec, shape: spec if moment.shape == shape.shape else P(),
            net.opt,
            trainable,
            shapes,
            transform_non_params=lambda _: P(),
        )
    ema = None if net.ema is None else {"params": specs, "stats": stats}
    return Net(specs, opt, stats, ema)


def state_shardings(state: State, rules: Rules, mesh: Mesh, optimisers: dict[str, Optimiser]) -> State:
    """NamedShardings like `state` (shapes): parameters, averages and moments by the rules, carry by rows.

    A network without an optimiser of its name (a frozen first stage) has its parameters sharded all the same.
    """
    nets = {name: _net_specs(net, rules, mesh, optimisers.get(name)) for name, net in state.nets.items()}
    specs = State(P(), nets, jax.tree.map(lambda _: P("data"), state.carry))
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, P))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def rows(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Batch rows over the data axis, after `leading` axes that are not cut."""
    return NamedSharding(mesh, P(*(None,) * leading, "data"))


def local_rows(mesh: Mesh, n: int) -> slice:
    """Which of n batch rows the devices of this process hold: rows that follow one another, as its devices do."""
    held = rows(mesh).addressable_devices_indices_map((n,)).values()
    parts = [index[0].indices(n) for index in held if index]
    return slice(min(start for start, _, _ in parts), max(stop for _, stop, _ in parts))


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Arrays of the host on the devices of all processes; each gives what its own devices hold."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def with_shardings(shapes: PyTree, shardings: PyTree) -> PyTree:
    """ShapeDtypeStructs that carry their sharding: what a restore takes."""
    return jax.tree.map(lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings)


def describe(mesh: Mesh) -> dict[str, Any]:
    return {"axes": dict(mesh.shape), "devices": [str(d) for d in mesh.devices.flat]}
