"""Finds the operation that made the first NaN of a function's results, by running its jaxpr one equation at a time.

Like `jax_debug_nans` it reports an operation whose inputs are finite and whose result is not, inside calls, branches
and the iterations of scans. Unlike it, it reports only operations that the results depend on, and infinities if
nothing is NaN.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.compat import apply, inner_jaxprs, scan_parts

CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "custom_jvp_call", "custom_vjp_call"}
HERE = Path(__file__).parent
Test = Callable[[Any], Any]  # array -> [...] bool


class Origin(NamedTuple):
    """operation: the primitive. scope: the modules and transforms around it. line: `FILE:NUMBER`, "" = unknown."""

    kind: str
    operation: str
    scope: str
    line: str


def origin(function: Callable, *args: Any) -> Origin | None:
    """The origin of the first NaN in the results of `function`, else of the first infinity. None if all is finite."""
    closed, leaves = jax.make_jaxpr(function)(*args), jax.tree.leaves(args)
    for kind, test in (("NaN", jnp.isnan), ("infinity", jnp.isinf)):
        _, found = _run(closed, leaves, test)
        if made := [each for each in found if each]:
            equation, line = made[0]
            return Origin(kind, equation.primitive.name, str(equation.source_info.name_stack), line)
    return None


def _is_bad(value: Any, test: Test) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating) and bool(test(value).any())


def _run(closed: Any, args: list, test: Test) -> tuple[list, list]:
    """The results of a closed jaxpr. For each, the equation that made it bad and its line, or None."""
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))
    origins: dict[Any, Any] = {}
    last = {v: i for i, equation in enumerate(jaxpr.eqns) for v in equation.invars if not hasattr(v, "val")}
    last |= dict.fromkeys([v for v in jaxpr.outvars if not hasattr(v, "val")], len(jaxpr.eqns))

    def read(v):
        return jnp.asarray(v.val) if hasattr(v, "val") else values[v]

    for i, equation in enumerate(jaxpr.eqns):
        inputs = [read(v) for v in equation.invars]
        results = apply(equation, inputs)
        cause = next((origins[v] for v in equation.invars if not hasattr(v, "val") and v in origins), None)
        bad = [v for v, result in zip(equation.outvars, results, strict=True) if _is_bad(result, test)]
        if bad:
            origins |= dict.fromkeys(bad, cause or _inside(equation, inputs, test))
        values |= dict(zip(equation.outvars, results, strict=True))
        for v in {v for v in [*equation.invars, *equation.outvars] if not hasattr(v, "val") and last.get(v, -1) <= i}:
            values.pop(v, None)
    return [read(v) for v in jaxpr.outvars], [None if hasattr(v, "val") else origins.get(v) for v in jaxpr.outvars]


def _inside(equation: Any, inputs: list, test: Test) -> Any:
    """The equation that makes results of `equation` bad, itself or one that it calls, and its line."""
    name, inner = equation.primitive.name, inner_jaxprs(equation)
    found: list = []
    if name in CALLS and len(inner) == 1:
        found = _run(inner[0], inputs, test)[1]
    elif name == "cond":
        found = _run(inner[int(inputs[0])], inputs[1:], test)[1]
    elif name == "scan":
        found = _turns(equation, inner[0], inputs, test)
    made, line = next((each for each in found if each), (equation, ""))
    return made, line or _line(equation)


def _turns(equation: Any, body: Any, inputs: list, test: Test) -> list:
    """As `_run`, for the first iteration of a scan with a bad result."""
    consts, carried = scan_parts(equation)
    carry, rows = inputs[consts : consts + carried], inputs[consts + carried :]
    turns = range(equation.params["length"])
    for i in reversed(turns) if equation.params["reverse"] else turns:
        results, found = _run(body, [*inputs[:consts], *carry, *(row[i] for row in rows)], test)
        if any(found):
            return found
        carry = results[:carried]
    return []


def _line(equation: Any) -> str:
    """The innermost line of gen_jax or of the user's code that an equation comes from."""
    frames = equation.source_info.traceback.frames if equation.source_info.traceback else []
    for frame in frames:
        file = Path(frame.file_name)
        installed = {"site-packages", "dist-packages"} & set(file.parts) or not file.exists()
        if file.is_relative_to(HERE) or not installed:
            name = file.relative_to(HERE.parent) if file.is_relative_to(HERE) else file
            return f"{name}:{frame.line_num}"
    return ""
