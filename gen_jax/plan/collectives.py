"""Collectives of a compiled program: kind, bytes, and which chips take part."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from gen_jax.plan.hlo import Array, Computation, Instruction, Module

MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^()]*(?:\([^)]*\))?)\))? \{([^}]*)\}")
SUBAXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective, in one iteration of its loop.

    Attributes:
      kind: one of KINDS.
      arrays: what each chip has when it ends (of a reduce-scatter: when it begins).
      payload: their bytes.
      groups: [G, n] places in the mesh, in row-major order; a row's chips exchange data. Of a permute: [pairs, 2].
      channel: its number in the program; the pieces of one that runs beside other work share it.
      source: the operation of the traced program that it comes from.
    """

    kind: str
    arrays: tuple[Array, ...]
    groups: np.ndarray
    channel: str
    source: str

    @property
    def payload(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @property
    def sent(self) -> float:
        """Bytes that leave a chip if they travel around a ring: what a bandwidth has to carry."""
        n = self.groups.shape[1]
        if self.kind == "collective-permute":
            return float(self.payload)
        return (2 if self.kind == "all-reduce" else 1) * self.payload * (n - 1) / n

    def axes(self, mesh: dict[str, int]) -> str:
        """The mesh axes that a group spans, as `data+model`."""
        taken = spans(self.groups, np.indices(tuple(mesh.values())).reshape(len(mesh), -1).T)
        return "+".join(name for name, (count, _) in zip(mesh, taken, strict=True) if count > 1) or "none"


def spans(groups: np.ndarray, places: np.ndarray) -> list[tuple[int, int]]:
    """Along each dimension of `places` [devices, D]: the most values that a group takes, and their stride."""
    found = []
    for column in places[groups].transpose(2, 0, 1):  # [G, n] of each dimension
        values = [np.unique(row) for row in column]
        most = max(values, key=len)
        found.append((len(most), int(np.diff(most).min()) if len(most) > 1 else 1))
    return found


def parse_groups(attributes: str, devices: int) -> np.ndarray:
    """The chips that exchange data, [G, n], from any form in which XLA prints them."""
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes):
        found = re.findall(r"\{(\d+),(\d+)\}", pairs.group(1))
        return np.asarray([[int(a), int(b)] for a, b in found], int).reshape(-1, 2)
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, dims, order = (_ints(part) for part in iota.groups())
        ids = np.arange(math.prod(dims)).reshape(dims)
        return (ids.transpose(order) if order else ids).reshape(shape[0], -1)
    if mesh := MESH.search(attributes):
        return _mesh_groups(*mesh.groups())
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)+)\}", attributes):
        return np.asarray([_ints(row) for row in re.findall(r"\{([\d,]+)\}", listed.group(1))])
    if "replica_groups={}" in attributes or "replica_groups" not in attributes:
        return np.arange(devices)[None]
    raise ValueError(f"unknown form of groups: {attributes[:200]}")


def _mesh_groups(sizes: str, order: str | None, grouped: str) -> np.ndarray:
    """`'a'=2,'b'=8`, the devices in the order `[4,4]T(1,0)` or listed, `'a','b':(2)4`: of b's 2 x 4 x 1 the 4."""
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes)}
    ids = np.arange(math.prod(axes.values()))
    if iota := re.search(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", order or ""):
        ids = ids.reshape(_ints(iota.group(1)))
        ids = (ids.transpose(_ints(iota.group(2))) if iota.group(2) else ids).reshape(-1)
    elif order:
        ids = np.asarray(_ints(order))
    shape, inside = [], []
    parts = {name: (int(before or 1), int(size or axes[name])) for name, before, size in SUBAXIS.findall(grouped)}
    for name, size in axes.items():
        before, taken = parts.get(name, (size, 1))
        inside += [len(shape) + 1] if name in parts else []
        shape += [before, taken, size // (before * taken)]
    outside = [axis for axis in range(len(shape)) if axis not in inside]
    members = math.prod(shape[axis] for axis in inside)
    return ids.reshape(shape).transpose(outside + inside).reshape(-1, members)


def _ints(text: str | None) -> list[int]:
    return [int(n) for n in (text or "").split(",") if n]


def of(module: Module, computation: Computation, instruction: Instruction, devices: int) -> Collective | None:
    """The collective that an instruction is, starts, or holds as a fusion; None where it is none.

    A fusion that reduces and keeps its own slice is a reduce-scatter.
    """
    kind = instruction.opcode.removesuffix("-start")
    if kind in KINDS:
        return _collective(kind, computation, instruction, devices)
    if instruction.opcode in ("fusion", "async-start", "call"):
        inner = module.called(instruction)
        for one in inner or ():
            if inner and (found := of(module, inner, one, devices)):
                scattered = found.kind == "all-reduce" and "all-reduce-scatter" in inner.name
                return dataclasses.replace(found, kind="reduce-scatter") if scattered else found
    return None


def _collective(kind: str, computation: Computation, instruction: Instruction, devices: int) -> Collective:
    groups = parse_groups(instruction.attributes, devices)
    arrays = tuple(computation.operands(instruction))
    if kind == "all-gather":
        n = groups.shape[1]
        along = re.search(r"dimensions=\{(\d+)\}", instruction.attributes)
        at = int(along.group(1)) if along else 0
        arrays = tuple(dataclasses.replace(a, dims=_scaled(a.dims, at, n)) for a in arrays)
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return Collective(kind, arrays, groups, channel.group(1) if channel else instruction.name, instruction.source)


def _scaled(dims: Sequence[int], at: int, n: int) -> tuple[int, ...]:
    return (*dims[:at], dims[at] * n, *dims[at + 1 :])


def phase(module: Module, instruction: Instruction) -> str:
    """`start` and `done` of a collective that runs beside other work, `sync` otherwise."""
    if instruction.opcode.endswith("-start"):
        return "start"
    inner = module.called(instruction) if instruction.opcode == "fusion" else None
    for one in inner or ():
        if one.opcode == "custom-call" and one.has('"AsyncCollectiveStart"'):
            return "start"
        if one.opcode == "custom-call" and one.has('"AsyncCollectiveDone"'):
            return "done"
    return "sync"
