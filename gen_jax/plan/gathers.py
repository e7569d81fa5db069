"""Collectives that no good rule needs: what is cut over the chips, put together whole on each of them.

Parameters that are stored in pieces are gathered to be used, one layer at a time: that is `fsdp`; what `model` cuts is
never whole. Gradients are summed over the rows, matrix products that were cut over `model`. More than that is a mistake
in the rules: all scanned layers at once, or activations. What a collective carries follows from its shape and its axes,
whatever its size: only an activation that has both of a parameter's is taken for that.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import jax

from gen_jax.core.leaves import stacked
from gen_jax.core.state import path_name
from gen_jax.plan.collectives import Collective
from gen_jax.plan.hlo import Array
from gen_jax.plan.roofline import Totals
from gen_jax.training.program import Program

LITTLE = 0.01  # of all parameters: a sum of no more than that, as of small gradients side by side, is no matter


@dataclasses.dataclass(frozen=True)
class Parameter:
    """The shape of a parameter, or of a statistic of its network; for each of its axes, the mesh axis that cuts it.

    layers: of scanned layers, which are its first axis; 1 where that is none.
    """

    shape: tuple[int, ...]
    cuts: tuple[str | None, ...]
    layers: int

    def piece(self, mesh: dict[str, int], *axes: str, layer: bool = True) -> tuple[int, ...]:
        """What a chip has of one layer, or of all of them, where it is cut over these mesh axes alone."""
        sizes = [n // (mesh[a] if a in axes else 1) for n, a in zip(self.shape, self.cuts, strict=True)]
        return tuple(sizes[1:] if layer and self.layers > 1 else sizes)


def parameters(program: Program) -> dict[str, Parameter]:
    """By `net/path`."""
    found = {}
    for name, net in program.abstract.nets.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path((net.params, net.stats)):
            key = path_name(path[1:])
            cuts = (*leaf.sharding.spec, *(None,) * leaf.ndim)[: leaf.ndim]
            found[f"{name}/{key}"] = Parameter(leaf.shape, cuts, leaf.shape[0] if stacked(key) else 1)
    return found


def pieces(program: Program) -> dict[str, tuple[int, ...]]:
    """What a step computes with and may gather: one layer of each parameter, cut over `model` alone."""
    mesh = dict(program.mesh.shape)
    return {name: one.piece(mesh, "model") for name, one in parameters(program).items()}


def warnings(totals: Totals, program: Program, mesh: dict[str, int]) -> list[str]:
    """A line for each collective that carries activations, or gathers all layers of a parameter at once."""
    rows = mesh["data"] * mesh["fsdp"]
    judge = _Judge(
        mesh,
        parameters(program),
        program.experiment.steps_per_call,
        max(leaf.size for leaf in jax.tree.leaves(program.feeder.feed.rows(0))) // rows,
    )
    lines: dict[str, int] = {}
    for one, _, count in totals.collectives:
        over = one.axes(mesh)
        for array in one.arrays:
            if what := judge.wrong(one, array, over, count):
                line = f"{one.kind} of {array} over {over}: {what}, for {one.source or 'something'}"
                lines[line] = lines.get(line, 0) + count
    return [f"{line} ({count} times a call)" if count > 1 else line for line, count in lines.items()]


@dataclasses.dataclass(frozen=True)
class _Judge:
    """steps: of a call. small: numbers in the largest part of a chip's batch; as many from each chip are no matter."""

    mesh: dict[str, int]
    known: dict[str, Parameter]
    steps: int
    small: int

    def wrong(self, one: Collective, array: Array, over: str, count: int) -> str:
        """What is wrong with a collective that has `array` on each chip, `count` times a call; "" where nothing is."""
        if one.kind == "all-gather":
            return self._gather(array, over.split("+"), one.groups.shape[1], count)
        if array.size <= self.small:
            return ""
        if one.kind == "all-to-all":
            return "it is needed in other pieces than those it is in"
        summed = one.kind == "all-reduce" and over != "model"  # a reduce-scatter leaves pieces, of padded gradients too
        gradients = sum(math.prod(parameter.shape) for parameter in self.known.values())
        if summed and array.size > LITTLE * gradients and not self._gradient(array):
            return "no parameter has this shape: activations are summed over the rows"
        return ""

    def _gather(self, array: Array, over: list[str], chips: int, count: int) -> str:
        stored = {name: one for name, one in self.known.items() if "model" not in over and {*over} <= {*one.cuts}}
        if any(splits(array.dims, one.piece(self.mesh, "model")) for one in stored.values()):
            return ""
        for name, one in stored.items():
            alike = _long(array.dims) == _long(one.piece(self.mesh, "model", layer=False))
            if one.layers > 1 and alike and count <= self.steps:  # in the loop over the layers it is more often
                return f"all layers of {name} {one.shape} are gathered at once"
        if array.size // chips <= self.small:
            return ""
        return "no parameter is stored in such pieces: activations are put together on each chip"

    def _gradient(self, array: Array) -> bool:
        """Whole or in the pieces that are stored, of one layer or of all."""
        kept = [
            one.piece(self.mesh, *axes, layer=layer)
            for one in self.known.values()
            for axes in ((), ("model",), ("fsdp",), ("fsdp", "model"))
            for layer in (True, False)
        ]
        return any(splits(array.dims, shape) for shape in {*kept})


def _long(dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for n in dims if n > 1)


def splits(dims: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether `dims` are those of `shape` in any order, each whole or in factors: heads [4, 3, 16, 64] of [64, 192]."""
    dims, shape = _long(dims), _long(shape)
    if math.prod(dims) != math.prod(shape) or len(dims) < len(shape):
        return False
    if not shape:
        return True
    for n in range(1, len(dims) + 1):
        for taken in itertools.combinations(range(len(dims)), n):
            rest = [size for i, size in enumerate(dims) if i not in taken]
            if math.prod(dims[i] for i in taken) == shape[0] and splits(rest, shape[1:]):
                return True
    return False
