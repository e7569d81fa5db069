"""What one instruction does: floating-point work and traffic with the chip's main memory."""

import math
import re

from gen_jax.plan.hlo import Array, Computation, Instruction, Module
from gen_jax.training.flops import pairs

# no traffic of their own; what a loop or a branch does is counted inside
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
FREE |= {"partition-id", "replica-id", "opt-barrier", "optimization-barrier", "add-dependency", "iota"}
VIEWING = re.compile('custom_call_target="(ConcatBitcast|AllocateBuffer|AssumeGatherIndicesInBound)"')
VIEWS = {"bitcast", "reshape", "copy", "convert", "transpose"}  # between a parameter of a fusion and what slices it


def flops(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Of matrix products and convolutions, also inside a fusion; a multiply-add counts as two."""
    if instruction.opcode == "dot":
        return _dot(computation, instruction)
    if instruction.opcode == "convolution":
        return _convolution(computation, instruction)
    if instruction.opcode in ("fusion", "call", "async-start", "map"):
        inner = module.called(instruction)
        return sum((flops(module, inner, one) for one in inner), 0.0) if inner else 0.0
    return 0.0


def _numbers(instruction: Instruction, key: str) -> list[int]:
    found = re.search(rf"\b{key}={{([\d,]*)}}", instruction.attributes)
    return [int(n) for n in found.group(1).split(",") if n] if found else []


def _dot(computation: Computation, instruction: Instruction) -> float:
    lhs = computation.operands(instruction)[0]
    contracted = math.prod(lhs.dims[i] for i in _numbers(instruction, "lhs_contracting_dims"))
    return 2.0 * instruction.result[0].size * contracted


def _window(instruction: Instruction, rank: int) -> dict[str, list[int]]:
    """The fields of `window={...}`, one value a spatial dimension; of `pad`, the padding before."""
    found = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    fields = dict(part.split("=") for part in found.group(1).split()) if found else {}
    values = {}
    for name, default in (("size", 1), ("stride", 1), ("lhs_dilate", 1), ("rhs_dilate", 1), ("pad", 0)):
        parts = fields[name].split("x") if name in fields else [str(default)] * rank
        values[name] = [int(part.split("_")[0]) for part in parts]
    return values


def _convolution(computation: Computation, instruction: Instruction) -> float:
    """Each product of an element of the input with one of the kernel; zeros of padding and dilation are none.

    A TPU's matrix products with batch axes are convolutions most of whose window lies on such zeros.
    """
    lhs = computation.operands(instruction)[0]
    labels = re.search(r"dim_labels=(\w+)_\w+->(\w+)", instruction.attributes)
    assert labels, instruction.attributes
    left, out = labels.groups()
    rank = len(left) - 2
    window = _window(instruction, rank)
    result = instruction.result[0]
    together = 1
    for i in range(rank):
        image, out_size = lhs.dims[left.index(str(i))], result.dims[out.index(str(i))]
        size, stride, low = window["size"][i], window["stride"][i], window["pad"][i]
        together *= pairs(image, size, out_size, stride, low, window["lhs_dilate"][i], window["rhs_dilate"][i])

    def group(name: str) -> int:
        found = re.search(rf"{name}_group_count=(\d+)", instruction.attributes)
        return int(found.group(1)) if found else 1

    features = lhs.dims[left.index("f")] // group("feature") * result.dims[out.index("f")]
    return 2.0 * features * (lhs.dims[left.index("b")] // group("batch")) * together


def _hbm(leaves: list[Array] | tuple[Array, ...]) -> int:
    return sum(leaf.bytes for leaf in leaves if leaf.space == 0)


def traffic(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes read from and written to main memory.

    What a fusion only takes a slice of counts with the slice, and what it updates in place with the update.
    """
    opcode, result = instruction.opcode, instruction.result
    if opcode in FREE or opcode.endswith(("-done", "-update")):
        return 0
    inner = module.called(instruction)
    if opcode == "async-start" and inner:
        return sum(traffic(module, inner, one) for one in inner)
    if opcode == "copy-start":
        return _hbm(result[:2])
    if opcode in ("slice", "dynamic-slice", "gather", "slice-start"):
        copied = (result[:2] if opcode == "slice-start" else result[:1])[-1]  # after its operand
        return copied.bytes * sum(leaf.space == 0 for leaf in (copied, *computation.operands(instruction)[:1]))
    if opcode in ("dynamic-update-slice", "scatter"):
        return 2 * _hbm(computation.operands(instruction)[1:])
    if opcode == "custom-call" and VIEWING.search(instruction.attributes):
        return 0
    if opcode != "fusion" or inner is None:
        return _hbm(result) + _hbm(computation.operands(instruction))
    return _fusion(computation, instruction, inner)


def _fusion(computation: Computation, instruction: Instruction, inner: Computation) -> int:
    users: dict[str, list[Instruction]] = {}
    for one in inner:
        for name in one.operands:
            users.setdefault(name, []).append(one)
    total = 0
    for one in inner:
        if one.opcode == "parameter" and _hbm(one.result):
            total += min(_read(one, inner, users), _hbm(one.result))
    root = inner.root
    outputs = [inner.instructions.get(name) for name in root.operands] if root.opcode == "tuple" else [root]
    for leaf, output in zip(instruction.result, outputs, strict=False):
        while output is not None and output.opcode in VIEWS and output.operands:
            output = inner.instructions.get(output.operands[0])
        if output is not None and output.opcode == "dynamic-update-slice":
            total += inner.operands(output)[1].bytes if leaf.space == 0 else 0
        else:
            total += _hbm([leaf])
    return total


def _read(parameter: Instruction, inner: Computation, users: dict[str, list[Instruction]]) -> int:
    """Bytes that a fusion reads of one of its parameters."""
    total, waiting = 0, [parameter]
    while waiting:
        value = waiting.pop()
        for user in users.get(value.name, []):
            if user.opcode in VIEWS:
                waiting.append(user)
            elif user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == value.name:
                total += user.result[0].bytes
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
                continue
            else:
                return parameter.result[0].bytes
    return total
