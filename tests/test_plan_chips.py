"""The table of chips against what jax and libtpu say of them, and rings and lines of slices."""

import importlib.util
import math
import types

import pytest

from gen_jax import flops
from gen_jax.errors import ConfigError
from gen_jax.plan import chips, topology

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
    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", lambda *_, **__: found)
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
