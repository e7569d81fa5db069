"""Collectives that no good rule needs: what is cut over the chips, put together whole on each of them.

Parameters that are cut to be stored are gathered to be used, one layer at a time: that is `fsdp`. More than that is a
mistake in the rules: all scanned layers at once, or activations of the whole batch.
"""

import math

import jax

from gen_jax.plan.collectives import Collective
from gen_jax.plan.hlo import Array
from gen_jax.plan.roofline import Totals
from gen_jax.program import Program
from gen_jax.sharding import SCANNED
from gen_jax.state import path_name


def parameters(program: Program) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """`net/path` -> the shape of a parameter, and that of one layer of it."""
    found = {}
    for name, net in program.shapes.nets.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(net.params):
            key = path_name(path)
            found[f"{name}/{key}"] = leaf.shape, leaf.shape[1:] if SCANNED in key else leaf.shape
    return found


def warnings(totals: Totals, program: Program, mesh: dict[str, int]) -> list[str]:
    """A line for each collective that gathers all layers of a parameter, or more than any parameter has."""
    known = parameters(program)
    lines = {}
    for one, _, count in totals.collectives:
        for array in one.arrays:
            over = one.axes(mesh)
            if what := _whole(one, array, over, known):
                lines[f"{one.kind} of {array} over {over}: {what}"] = count
    return [f"{line} ({count} times a call)" if count > 1 else line for line, count in lines.items()]


def _whole(one: Collective, array: Array, over: str, known: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    """What is wrong with a collective that ends with `array` on each chip; "" where nothing is.

    Sums over `model` alone are those of matrix products that were cut.
    """
    if one.kind not in ("all-gather", "all-reduce") or (one.kind == "all-reduce" and over == "model"):
        return ""
    dims = [d for d in array.dims if d > 1]
    stacked = {name: shape for name, (shape, layer) in known.items() if shape != layer and len(layer) > 1}  # matrices
    same = [name for name, shape in stacked.items() if sorted(dims) == sorted(d for d in shape if d > 1)]
    if one.kind == "all-gather" and same:
        name = min(same, key=lambda name: stacked[name] != array.dims)  # else the first, in another order of its axes
        return f"all layers of {name} {stacked[name]} are gathered at once"
    most = max(math.prod(shape if one.kind == "all-reduce" else layer) for shape, layer in known.values())
    if array.size > most:
        return f"larger than any parameter: activations are put together on each chip, for {one.source or 'something'}"
    return ""
