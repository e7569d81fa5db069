"""The table of chips against what jax and libtpu say of them, and rings and lines of slices."""

import importlib.util
import itertools
import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.errors import ConfigError
from gen_jax.plan import chips, topology
from gen_jax.training import flops

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'gen_jax[plan]'")
SMALL = ("v4:2x2x2", "v5e:2x4", "v5p:2x2x2", "v6e:2x4")


@needs_libtpu
@pytest.mark.parametrize("name", SMALL)
def test_a_chip_is_one_device(name):
    """A v4 and a v5p have two TensorCores."""
    where = chips.parse(name)
    assert len(topology.devices(where)) == where.size == 8


@needs_libtpu
def test_another_number_of_devices_than_of_chips_is_one_line(monkeypatch):
    found = types.SimpleNamespace(devices=[object()] * 8)
    monkeypatch.setattr("gen_jax.compat.topologies.get_topology_desc", lambda *_, **__: found)
    with pytest.raises(ConfigError, match="--topology: expected 4 devices of v5e:2x2, one a chip, got 8"):
        topology.devices(chips.parse("v5e:2x2"))


@needs_libtpu
@pytest.mark.parametrize("name", SMALL)
def test_jax_calls_a_chip_what_the_table_does(name):
    """jax's word for a v5p is TPU v5, with which that for a v5e begins."""
    where = chips.parse(name)
    device = topology.devices(where)[0]
    assert device.device_kind == where.chip.kind and flops.peak(device) == where.chip.peak


@pytest.mark.parametrize(
    ("name", "spans", "links"),
    [
        ("v5p:8x8x16", [(4, 1), (1, 1), (1, 1)], 1),  # half of a ring
        ("v5p:8x8x16", [(4, 1), (2, 1), (1, 1)], 2),
        ("v5p:8x8x16", [(8, 1), (1, 1), (1, 1)], 2),
        ("v5p:8x8x16", [(1, 1), (1, 1), (4, 4)], 2 / 4),
        ("v5p:2x4x4", [(1, 1), (4, 1), (1, 1)], 1),  # no whole cube
        ("v4:4x4x4", [(4, 1), (4, 1), (4, 1)], 6),
        ("v5e:8x16", [(8, 1), (1, 1), (1, 1)], 1),
        ("v5e:8x16", [(1, 1), (16, 1), (1, 1)], 2),  # each dimension by itself
        ("v6e:16x16", [(8, 1), (1, 1), (1, 1)], 1),
    ],
)
def test_a_ring_closes_where_a_group_has_the_whole_side(name, spans, links):
    """An all-gather of S bytes over n chips takes S (n - 1) / n over the links that a group has."""
    where = chips.parse(name)
    n = math.prod(count for count, _ in spans)
    found = chips.seconds("all-gather", 10**15, spans, where)
    assert found == pytest.approx(10**15 * (n - 1) / n / (links * where.chip.link), rel=1e-6)


@pytest.mark.parametrize(("n", "ring"), [(16, True), (8, False), (4, False)])
def test_an_all_to_all_takes_what_the_busiest_link_carries(n, ring):
    """Each byte the shortest way, along a dimension of a v6e; halfway around a ring half of them each way."""
    carried = np.zeros((2, n))  # by link, to the right and to the left
    for a, b in itertools.permutations(range(n), 2):
        right, left = (b - a) % n, (a - b) % n
        shares = (1, 0) if (right < left if ring else b > a) else (0, 1)
        for way, (share, hops) in enumerate(
            zip((0.5, 0.5) if ring and right == left else shares, (right, left), strict=True)
        ):
            for hop in range(hops if share else 0):
                carried[way, (a + hop) % n if way == 0 else (a - 1 - hop) % n] += share / n
    where = chips.parse(f"v6e:{n}x1")
    found = chips.seconds("all-to-all", 10**15, [(n, 1), (1, 1)], where)
    assert found == pytest.approx(10**15 * carried.max() / where.chip.link, rel=1e-6)


@needs_libtpu
@pytest.mark.parametrize("name", SMALL)
def test_a_chip_has_no_more_memory_than_its_compiler_gives(name):
    """Of the maker's GiB some are reserved."""
    where = chips.parse(name)
    alone = jax.sharding.NamedSharding(jax.sharding.Mesh(topology.devices(where), "d"), jax.sharding.PartitionSpec())
    huge = jax.ShapeDtypeStruct((2**18, 2**18), jnp.float32, sharding=alone)  # 256 GiB
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"exceeds available HBM \(([\d.]+)G\)") as error:
        topology.compiled(jax.jit(lambda x: x @ x).lower(huge))
    given = float(re.findall(r"available HBM \(([\d.]+)G\)", str(error.value))[0])
    assert given - 1 < where.chip.hbm / chips.GIB <= given
