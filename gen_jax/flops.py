"""Work of a function, counted on its jaxpr: matrix products and convolutions, loops times their length.

XLA's own cost analysis counts the body of a loop once, so it cannot serve for scanned layers or steps.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

from gen_jax import compat


def count(fn: Callable, *args: Any) -> float:
    """FLOPs of one call, a multiply-add counted as two. `args` may be shapes (ShapeDtypeStruct).

    What no result depends on does not count: XLA drops it.
    """
    return _jaxpr(compat.live_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr))


def _jaxpr(jaxpr: Any) -> float:
    return sum((_equation(eqn) for eqn in jaxpr.eqns), 0.0)


def _equation(eqn: Any) -> float:
    name = eqn.primitive.name
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[i] for i in contract)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    inner = [_jaxpr(sub) for sub in compat.inner_jaxprs(eqn)]
    if name == "scan":
        return eqn.params["length"] * sum(inner, 0.0)
    if name == "cond":
        return max(inner)
    return sum(inner, 0.0)


def _convolution(eqn: Any) -> float:
    """Each output takes one multiply-add for each weight of its group; dilated inputs' zeros are no work."""
    kernel = eqn.invars[1].aval.shape
    spec = eqn.params["dimension_numbers"].rhs_spec
    per_output = math.prod(kernel) / kernel[spec[0]]
    zeros = math.prod(eqn.params["lhs_dilation"])
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * per_output / zeros


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
    """Peak FLOP/s of a device that is in the table."""
    return next((flops for name, flops in PEAK.items() if device.device_kind.startswith(name)), None)
