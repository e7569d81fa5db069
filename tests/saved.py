"""A state of every kind of leaf, and its checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gen_jax.core.state import Net, State
from gen_jax.runs.checkpoint import Checkpoints


def make_state(step=0, width=16, ema=True):
    """Every kind of leaf: sharded, bfloat16, integer, empty, None; every value follows from `step`."""
    params = {"Dense_0": {"kernel": jnp.full((8, width), step, jnp.float32), "bias": jnp.zeros((width,), jnp.bfloat16)}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    stats = {"batch_stats": {"mean": jnp.full((3,), step, jnp.float32)}}
    average = jax.tree.map(lambda x: x + 1, {"params": params, "stats": stats}) if ema else None
    net = Net(params=params, opt=tx.init(params), stats=stats, ema=average)
    return State(step=jnp.asarray(step, jnp.int32), nets={"net": net}, carry=None)


def abstract_of(state, devices=1):
    """Leading axes of 8 rows sharded over `devices` devices, the rest replicated."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])

    def leaf(x):
        spec = PartitionSpec("data") if x.ndim and x.shape[0] == 8 else PartitionSpec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(leaf, state)


def put(state, devices):
    return jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), state, abstract_of(state, devices))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def opened(folder, keep=3, hash_limit_mb=100.0):
    return Checkpoints(folder, keep, hash_limit_mb)


@pytest.fixture
def folder(tmp_path):
    """Steps 1, 2, 3, all intact."""
    with opened(tmp_path / "checkpoints") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {"best_step": None, "count": step})
    return tmp_path / "checkpoints"


def biggest_file(step_dir):
    return max((file for file in step_dir.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def flip_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
