"""Reading compiled programs: work, traffic, collectives and time of programs whose numbers are known."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gen_jax.errors import ConfigError
from gen_jax.plan import chips, collectives, hlo, roofline, topology, work

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'gen_jax[plan]'")
FREE = roofline.Roofline(peak=1.0, bandwidth=1e30, seconds=lambda one: 0.0, devices=4)


def devices(platform: str) -> list:
    return jax.devices()[:4] if platform == "cpu" else topology.devices(chips.parse("v5e:2x2"))


def compiled(platform: str, fn, *shapes, specs=None, out=None):
    """The program of `fn` on four devices; `specs` cut its arguments over the axis `d`."""
    mesh = Mesh(np.asarray(devices(platform)), ("d",))
    specs = specs or [P()] * len(shapes)
    args = [
        jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(mesh, spec))
        for s, spec in zip(shapes, specs, strict=True)
    ]
    lowered = jax.jit(fn, out_shardings=None if out is None else NamedSharding(mesh, out)).lower(*args)
    return hlo.parse(lowered.compile().as_text() if platform == "cpu" else topology.compiled(lowered)[1])


PLATFORMS = ["cpu", pytest.param("tpu", marks=needs_libtpu)]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_work_of_a_loop_is_that_of_all_its_turns(platform):
    """2 m n k FLOPs a product, 7 turns, and a product with a batch axis."""

    def fn(x, w, y):
        x = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]
        return x, jnp.einsum("bij,bkj->bik", y, y)

    totals = FREE.run(compiled(platform, fn, (16, 128), (128, 128), (4, 32, 64)))
    assert totals.flops == 7 * 2 * 16 * 128 * 128 + 4 * 2 * 32 * 32 * 64
    assert totals.unknown_loops == 0


@pytest.mark.parametrize("platform", PLATFORMS)
def test_gradients_of_a_matrix_product_cost_twice_its_work(platform):
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w) ** 2)

    totals = FREE.run(compiled(platform, jax.grad(loss), (128, 64), (32, 128)))
    assert totals.flops == 2 * 2 * 32 * 128 * 64  # with respect to w alone, after the forward pass


def test_zeros_around_an_image_are_no_work():
    """SAME padding of 4 x 4 pixels by a 3 x 3 kernel: 16 places of 9, less the edges: 100 products a channel pair."""

    def fn(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert FREE.run(compiled("cpu", fn, (2, 4, 4, 3), (3, 3, 3, 5))).flops == 2 * 2 * 100 * 3 * 5


@pytest.mark.parametrize("platform", PLATFORMS)
def test_data_parallel_gradients_are_reduced_once(platform):
    """The bytes of one all-reduce are those of the parameters."""

    def loss(w, x):
        return jnp.sum((x @ w) ** 2)

    module = compiled(platform, jax.grad(loss), (128, 256), (64, 128), specs=[P(), P("d")], out=P())
    found = [one for one, _, count in FREE.run(module).collectives if count == 1]
    assert {one.kind for one in found} == {"all-reduce"}
    assert sum(one.payload for one in found) == 4 * 128 * 256
    assert sum(one.sent for one in found) == 2 * 3 / 4 * 4 * 128 * 256
    assert {one.axes({"d": 4}) for one in found} == {"d"}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_is_gathered_counts_whole(platform):
    module = compiled(platform, lambda x: x * 2, (64, 256), specs=[P("d")], out=P())
    (one,) = [one for one, _, _ in FREE.run(module).collectives]
    assert one.kind == "all-gather" and [array.dims for array in one.arrays] == [(64, 256)]
    assert one.payload == 4 * 64 * 256 and one.sent == 3 * 4 * 16 * 256


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, x", [[0, 2], [1, 3]]),
        ("replica_groups=[2,3]<=[6], x", [[0, 1, 2], [3, 4, 5]]),
        ("replica_groups=[3,2]<=[2,3]T(1,0), x", [[0, 3], [1, 4], [2, 5]]),
        ("replica_groups=mesh['a'=2,'b'=3] {'b'}, x", [[0, 1, 2], [3, 4, 5]]),
        ("replica_groups=mesh['a'=2,'b'=3] {'a'}, x", [[0, 3], [1, 4], [2, 5]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}, x", [[3, 2], [1, 0]]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, x", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("source_target_pairs={{0,1},{1,0}}, x", [[0, 1], [1, 0]]),
        ("replica_groups={}, x", [[0, 1, 2, 3]]),
    ],
)
def test_every_form_of_groups(text, groups):
    assert collectives.parse_groups(text, 4).tolist() == groups


def test_axes_are_those_along_which_a_group_varies():
    mesh = {"data": 2, "fsdp": 3, "model": 1}
    ids = np.arange(6).reshape(2, 3)
    for groups, axes in ((ids, "fsdp"), (ids.T, "data"), (ids.reshape(1, 6), "data+fsdp"), (ids.reshape(6, 1), "none")):
        assert collectives.Collective("all-reduce", (), groups, "1", "").axes(mesh) == axes


PROGRAM = """HloModule step, is_scheduled=true

%async_wrapped (p.1: f32[256]) -> f32[256] {
  %p.1 = f32[256]{0:T(256)} parameter(0)
  ROOT %r.1 = f32[256]{0:T(256)} all-reduce(%p.1), channel_id=2, replica_groups=[1,4]<=[4], to_apply=%add
}

%cond (c: (s32[], f32[128,128])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %i.1 = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %n), direction=LT
}

%body (b: (s32[], f32[128,128])) -> (s32[], f32[128,128]) {
  %b = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%b), index=0
  %x = f32[128,128]{1,0:T(8,128)} get-tuple-element(%b), index=1
  %slice = f32[32,128]{1,0:T(8,128)S(1)} slice(%x), slice={[0:32], [0:128]}
  %ag-start = (f32[32,128]{1,0}, f32[128,128]{1,0}) all-gather-start(%slice), channel_id=1, dimensions={0}
  %y = f32[128,128]{1,0:T(8,128)S(1)} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %ag-done = f32[128,128]{1,0} all-gather-done(%ag-start)
  ROOT %t = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}) tuple(%i.2, %ag-done)
}

ENTRY %main (a: f32[128,128], v: f32[256]) -> f32[256] {
  %a = f32[128,128]{1,0:T(8,128)} parameter(0)
  %v = f32[256]{0:T(256)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)}) while(%start), condition=%cond, body=%body
  %s = ((f32[256]{0:T(256)}), f32[256]{0:T(256)}) async-start(%v), calls=%async_wrapped
  ROOT %d = f32[256]{0:T(256)} async-done(%s)
}
"""
WORK = 2 * 128**3  # of a turn


@pytest.mark.parametrize(("network", "exposed"), [(0.25, 0.0), (3.0, 2.0)])
def test_a_collective_is_exposed_where_nothing_runs_beside_it(network, exposed):
    """In products' times: a turn's gather runs beside one of them, the reduction behind the loop beside nothing."""
    where = roofline.Roofline(peak=float(WORK), bandwidth=1e30, seconds=lambda one: network, devices=4)
    totals = where.run(hlo.parse(PROGRAM))
    assert totals.compute == pytest.approx(5) and totals.exposed == pytest.approx(5 * exposed + network)
    assert {(one.kind, count) for one, _, count in totals.collectives} == {("all-gather", 5), ("all-reduce", 1)}


UPDATED = """HloModule step, is_scheduled=true

%gather (p: f32[32,128]) -> f32[128,128] {
  %p = f32[32,128]{1,0} parameter(0)
  ROOT %r = f32[128,128]{1,0} all-gather(%p), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
}

ENTRY %main (a: f32[32,128], x: f32[128,128]) -> f32[128,128] {
  %a = f32[32,128]{1,0} parameter(0)
  %x = f32[128,128]{1,0} parameter(1)
  %s = ((f32[32,128]{1,0}), f32[128,128]{1,0}, u32[]) async-start(%a), calls=%gather
  %u = ((f32[32,128]{1,0}), f32[128,128]{1,0}, u32[]) async-update(%s)
  %y = f32[128,128]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %v = ((f32[32,128]{1,0}), f32[128,128]{1,0}, u32[]) async-update(%u)
  %d = f32[128,128]{1,0} async-done(%v)
  ROOT %z = f32[128,128]{1,0} dot(%y, %d), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
OPEN = re.sub(r"  %v = .*\n  %d = .*\n", "", UPDATED).replace("(%y, %d)", "(%y, %x)")


@pytest.mark.parametrize(("program", "exposed"), [(UPDATED, 2.0), (OPEN, 1.0)], ids=["updated", "open"])
def test_every_collective_is_waited_for(program, exposed):
    """It takes three products' time; one runs before its end, which follows two updates, two where none is here."""
    where = roofline.Roofline(peak=float(WORK), bandwidth=1e30, seconds=lambda one: 3.0, devices=4)
    totals = where.run(hlo.parse(program))
    assert totals.compute == pytest.approx(2) and totals.exposed == pytest.approx(exposed)


def test_traffic_counts_main_memory_and_slices():
    module = hlo.parse(PROGRAM)
    body = module.computations["body"]
    moved = {one.name: work.traffic(module, body, one) for one in body}
    assert moved["y"] == 2 * 4 * 128 * 128  # both operands; the result stays on the chip
    assert moved["slice"] == 4 * 32 * 128 and moved["t"] == moved["x"] == 0


@pytest.mark.parametrize(
    ("instruction", "moved"),
    [
        ("f32[] gather(%x, %i), offset_dims={}", 2 * 4),  # read and written
        ("f32[1,1]{1,0} dynamic-slice(%x, %i, %i)", 2 * 4),
        ("(f32[128,128]{1,0}, f32[32,128]{1,0:T(8,128)S(1)}, s32[1]{0}) slice-start(%x)", 4 * 32 * 128),
    ],
)
def test_traffic_of_a_slice_is_what_it_takes(instruction, moved):
    """Also a scalar; a slice that is started tells of its operand, its result and a flag of its own."""
    lines = ["  %x = f32[128,128]{1,0} parameter(0)", "  %i = s32[] parameter(1)", f"  ROOT %one = {instruction}"]
    module = hlo.parse("\n".join(["HloModule m", "", "ENTRY %main (x: f32[128,128]) -> f32[] {", *lines, "}"]))
    computation = module.computations["main"]
    assert work.traffic(module, computation, computation.root) == moved


@needs_libtpu
def test_what_a_loop_updates_in_place_counts_once():
    """A scan over stacked weights reads each once, and writes each layer's output once."""

    def fn(x, w):
        return jax.lax.scan(lambda x, w: (y := jnp.tanh(x @ w), y), x, w)

    totals = FREE.run(compiled("tpu", fn, (1024, 512), (16, 512, 512)))
    once = 4 * (16 * 512 * 512 + 16 * 1024 * 512)
    assert once <= totals.bytes <= 2 * once


@pytest.mark.parametrize(
    ("kind", "spans", "times", "hops"),
    [
        ("all-gather", [(16, 1), (1, 1)], 15 / 16 / 2, 8),  # a ring, both ways
        ("all-gather", [(4, 1), (1, 1)], 3 / 4, 4),  # a line
        ("all-gather", [(16, 1), (16, 1)], 255 / 256 / 4, 16),  # both dimensions at once
        ("all-gather", [(4, 4), (1, 1)], 3 / 4 * 2, 8),  # a ring of every fourth chip, shared by four groups
        ("all-reduce", [(4, 1), (1, 1)], 2 * 3 / 4, 8),
        ("all-to-all", [(16, 1), (1, 1)], 16 / 8, 8),
        ("all-to-all", [(8, 1), (1, 1)], 8 / 4, 8),  # a line
        ("all-to-all", [(16, 1), (16, 1)], 16 / 8, 16),  # 16 rows, each with its own links through the middle
        ("collective-permute", [(2, 1), (1, 1)], 1, 1),
        ("all-reduce", [(1, 1), (1, 1)], 0, 0),
    ],
)
def test_seconds_on_the_torus(kind, spans, times, hops):
    """1 GB takes a link of a v5e 20 ms one way; a hop takes 1 us."""
    found = chips.seconds(kind, 10**9, spans, chips.parse("v5e:16x16"))
    assert found == pytest.approx(times * 0.02 + hops * 1e-6, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5:4x4", "--topology: unknown chip 'v5'; did you mean v5p?"),
        ("v5e:4x4x4", "--topology: expected 2 sides, as v5e:4x4, got 'v5e:4x4x4'"),
        ("v5p:8x", "--topology: expected 3 sides, as v5p:4x4x4, got 'v5p:8x'"),
        ("v5e", "--topology: expected 2 sides, as v5e:4x4, got 'v5e'"),
    ],
)
def test_a_wrong_topology_is_one_line(name, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        chips.parse(name)


@needs_libtpu
def test_a_slice_that_cannot_be_rented_is_one_line():
    with pytest.raises(ConfigError, match="--topology: expected one that libtpu knows, got 'v5e:3x5'") as error:
        topology.devices(chips.parse("v5e:3x5"))
    assert "\n" not in str(error.value)


def test_without_libtpu_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'gen_jax[plan]'")):
        topology.devices(chips.parse("v5e:2x2"))
