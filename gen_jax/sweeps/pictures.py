"""Pictures of a sweep: its metric against each parameter, and the best trial so far."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from gen_jax.runs.plots import new_figure, pixels

MAGNITUDES = 50  # largest / smallest number from which an axis is logarithmic, also where the sweep drew no logarithms


def responses(
    columns: dict[str, list[Any]], values: Float[np.ndarray, " N"], name: str, logs: frozenset[str] = frozenset()
) -> UInt8[np.ndarray, "H W 3"]:
    """A metric against each of several parameters. The axes of `logs` are logarithmic, and those of wide ranges.

    Args:
      columns: N values a parameter: numbers, or anything else, which is grouped; None where a row has none.
      name: of the metric.
    """
    wide = min(3, max(1, len(columns)))
    high = max(1, math.ceil(len(columns) / wide))
    figure = new_figure(0.6 + 3.4 * wide, 0.6 + 2.8 * high)
    axes = figure.subplots(high, wide, sharey=True, squeeze=False).ravel()
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    for axis, (key, column) in zip(axes, columns.items(), strict=False):
        has = [i for i, value in enumerate(column) if value is not None]
        found = [column[i] for i in has]
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in found):
            found = [str(value) for value in found]
        elif found and min(found) > 0 and (key in logs or max(found) / min(found) >= MAGNITUDES):
            axis.set_xscale("log")
        axis.scatter(found, values[has], s=16, linewidths=0, alpha=0.7)
        axis.set_xlabel(key)
        axis.grid(alpha=0.3)
    figure.supylabel(name)
    figure.suptitle(f"{name}, {len(values)} trials" if name else "", fontsize=10)
    return pixels(figure)


def best_so_far(
    numbers: Int[np.ndarray, " N"], values: Float[np.ndarray, " N"], name: str, *, maximize: bool
) -> UInt8[np.ndarray, "H W 3"]:
    """The metric of each trial as a dot, and the best up to it as a step line; `numbers` of the trials ascend."""
    figure = new_figure()
    axis = figure.add_subplot(title=f"best {name}", xlabel="trial", ylabel=name)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.scatter(numbers, values, s=16, linewidths=0, color="grey", label="trial")
    best = (np.maximum if maximize else np.minimum).accumulate(values)
    axis.step(numbers, best, where="post", label="best so far")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    return pixels(figure)
