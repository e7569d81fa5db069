"""FLOPs of a model: its matrix products and convolutions, counted on a jaxpr.

This counts the work of the mathematics, not of one compiled program. A loop counts its body times its length. Values
that are computed again, as by `remat`, count once: equal operations on equal operands are one. Zeros of padding and of
dilated inputs do not count. A conditional counts its cheaper branch, a loop of unknown length one iteration, a kernel
without a jaxpr nothing. XLA's own analysis counts the body of a loop once and counts remat, so it cannot serve.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from gen_jax import compat

# they give their operands: barriers against the compiler, marks, and the rounding that `remat` adds to what it keeps
IDENTITIES = {"optimization_barrier", "name", "copy", "copy_p", "reduce_precision"}
STEPS = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")  # of a convolution, one an axis


def count(fn: Callable, *args: Any, recomputed: bool = False) -> float:
    """FLOPs of one call, a multiply-add counted as two. `args` may be shapes (ShapeDtypeStruct).

    Work that no result depends on does not count: XLA removes it.

    Args:
      recomputed: count recomputed values again: the work of the program.
    """
    jaxpr, counter = compat.live_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr), _Counter(recomputed)
    constants, inputs = (
        [counter.value(kind, i) for i in range(len(names))]
        for kind, names in (("constant", jaxpr.constvars), ("input", jaxpr.invars))
    )
    counter.walk(jaxpr, constants, inputs, 1.0)
    return counter.total


class _Counter:
    """Gives each value of a jaxpr a number, equal for equal operations on equal operands (value numbering).

    Loops are walked once; one iteration represents all. Reading an array that an earlier loop stacked gives the value
    that one iteration of that loop computed.
    """

    def __init__(self, recomputed: bool):
        self.recomputed = recomputed
        self.numbers: dict[Hashable, int] = {}
        self.turns: dict[int, int] = {}  # of a stacked array -> the value that one turn of its loop gave
        self.total, self.depth = 0.0, 0

    def value(self, *key: Hashable) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    def walk(self, jaxpr: Any, constants: Sequence[int], inputs: Sequence[int], times: float) -> list[int]:
        """The values of the outputs. Adds the work of `times` calls to the total."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))

        def read(atom: Any) -> int:
            if hasattr(atom, "val"):
                return self.value("literal", str(atom.aval), str(atom.val))
            return known[atom]

        for equation in jaxpr.eqns:
            outputs = self._equation(equation, [read(atom) for atom in equation.invars], times)
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[int], times: float) -> list[int]:
        name, inner = equation.primitive.name, compat.inner_jaxprs(equation)
        if name in IDENTITIES:
            return inputs
        if name == "scan":
            return self._scan(equation, inner[0], inputs, times)
        if len(inner) == 1 and len(inner[0].jaxpr.invars) == len(inputs) and name != "while":
            return self._call(inner[0], inputs, times)
        key = (name, *inputs, *_settings(equation))
        if (key, 0) not in self.numbers or self.recomputed:
            self._add(equation, inner, times)
        return [self.value(key, i) for i in range(len(equation.outvars))]

    def _call(self, closed: Any, inputs: Sequence[int], times: float) -> list[int]:
        constants = [self.value("array", id(array)) for array in closed.consts]
        return self.walk(closed.jaxpr, constants, inputs, times)

    def _scan(self, equation: Any, body: Any, inputs: list[int], times: float) -> list[int]:
        consts, carry = compat.scan_parts(equation)
        key = ("scan", self.depth, *inputs, *_settings(equation))
        carried = [self.value(key, "carried", i) for i in range(carry)]
        rows = [self.turns.get(array, self.value("row", self.depth, array)) for array in inputs[consts + carry :]]
        self.depth += 1
        outputs = self._call(body, [*inputs[:consts], *carried, *rows], times * equation.params["length"])
        self.depth -= 1
        stacked = [self.value("stacked", self.depth, turn) for turn in outputs[carry:]]
        self.turns.update(zip(stacked, outputs[carry:], strict=True))
        return [self.value(key, "last", i) for i in range(carry)] + stacked

    def _add(self, equation: Any, inner: list[Any], times: float) -> None:
        """The work of an operation: its own, or that of the functions it calls."""
        if equation.primitive.name == "dot_general":
            self.total += times * _product(equation)
        elif equation.primitive.name == "conv_general_dilated":
            self.total += times * _convolution(equation)
        elif inner:
            works = [_Counter(self.recomputed).alone(closed) for closed in inner]
            self.total += times * (min(works) if equation.primitive.name == "cond" else sum(works))

    def alone(self, closed: Any) -> float:
        """The work of a call, without knowing its inputs."""
        self._call(closed, [self.value("input", i) for i in range(len(closed.jaxpr.invars))], 1.0)
        return self.total


def _settings(equation: Any) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(equation.params.items())]


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)


def _convolution(equation: Any) -> float:
    """One product for each pair of an input element and a kernel element that meet."""
    params, (image, kernel) = equation.params, (atom.aval.shape for atom in equation.invars)
    (batch, _, *sides), (features, channels, *windows), (_, _, *places) = params["dimension_numbers"]
    out = equation.outvars[0].aval.shape
    total = 2.0 * kernel[features] * kernel[channels] * (image[batch] // params["batch_group_count"])
    axes = zip(sides, windows, places, *map(params.get, STEPS), strict=True)
    for side, window, place, stride, (low, _), dilation, holes in axes:
        total *= pairs(image[side], kernel[window], out[place], stride, low, dilation, holes)
    return total


def pairs(image: int, window: int, out: int, stride: int, low: int, dilation: int, holes: int) -> int:
    """Along one axis of a convolution: the pairs of an input element and a window element that meet.

    Args:
      image, window, out: sizes of input, kernel and output.
      stride, low: of the window, and the padding before the input.
      dilation, holes: steps between two elements of the input, and of the window.
    """
    met = np.arange(out)[:, None] * stride - low + np.arange(window)[None] * holes
    return int(((met >= 0) & (met < (image - 1) * dilation + 1) & (met % dilation == 0)).sum())


# Dense peak in bf16, FLOP/s a chip, from the makers' data sheets, by how jax's name of the device begins: the first
# that fits. A v5p is "TPU v5".
PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak(device: Any) -> float | None:
    """Peak FLOP/s of a device, None if the table lacks it."""
    return next((flops for name, flops in PEAK.items() if device.device_kind.startswith(name)), None)
