"""`parallel="pmap"`: replicated data parallelism in the style of older JAX code.

The state has a leading axis of devices, [D, ...]. The step folds the device's number into the key. Gradients,
numerators and weights are summed in the gradient hook. Models whose state mixes rows are refused.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.core.state import PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.parallel import sharding

AXIS = "data"


def check(shapes: State, rules: sharding.Rules, mesh: jax.sharding.Mesh) -> None:
    """Raises ConfigError if a model or its rules do not fit pmap."""
    if any(jax.tree.leaves(net.stats) for net in shapes.nets.values()) or jax.tree.leaves((shapes.carry, shapes.extra)):
        raise ConfigError("config.parallel: pmap does not fit a model whose state mixes rows; expected jit")
    if jax.process_count() > 1:
        raise ConfigError("config.parallel: pmap runs in one process; expected jit")
    if any(rule != "replicate" for _, rule in rules) or mesh.shape["fsdp"] * mesh.shape["model"] > 1:
        raise ConfigError("config.parallel: pmap does not shard parameters; expected jit or the rule replicate")


def replicate(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """A copy for each device, on a new leading axis."""
    d = mesh.devices.size
    copy = jax.jit(
        lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x, (d, *x.shape)), tree),
        out_shardings=sharding.rows(mesh),
    )
    return copy(tree)


def unreplicate(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """The first device's copy, without the leading axis, laid out as jit's."""
    # x[0] would be a program with a collective for each leaf
    return jax.device_put(jax.tree.map(lambda x: x.addressable_data(0)[0], tree), sharding.replicated(mesh))


def split_rows(rows: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """[K, B, ...] on the host -> [D, K, B/D, ...]: each device gets the same rows as under jit."""
    d = mesh.devices.size
    return jax.tree.map(lambda x: x.reshape(len(x), d, -1, *np.shape(x)[2:]).swapaxes(0, 1), rows)


def compile_step(k_steps: Callable[..., Any], rng: jax.Array, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """(state [D], resident [D], rows [D, K, B/D]) -> (state [D], metrics [K])."""

    def per_device(state, resident, rows):
        return k_steps(state, resident, rows, jax.random.fold_in(rng, jax.lax.axis_index(AXIS)))

    # the metrics are sums over the devices, so each of them has the same
    devices = list(mesh.devices.flat)
    return jax.pmap(per_device, axis_name=AXIS, out_axes=(0, None), donate_argnums=0, devices=devices)
