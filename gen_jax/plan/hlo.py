"""XLA's optimised programs, read from their text: computations of instructions, in the order of their schedule."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "c64": 64, "c128": 128}
ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
CALLS = re.compile(r"(calls|to_apply|body|condition|true_computation|false_computation)=%([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """The shape of a value. space: 0 is the chip's main memory, everything else is on the chip or on the host."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """What it takes without padding."""
        bits = BITS.get(self.dtype) or int((re.findall(r"\d+", self.dtype) or ["0"])[0])
        return self.size * bits // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`name = result opcode(operands), attributes`. result: the leaves of a tuple. A constant's operand is its text."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @functools.cached_property
    def calls(self) -> dict[str, str]:
        """What it calls: `calls`, `body`, ... -> computation."""
        return dict(CALLS.findall(self.attributes))

    @functools.cached_property
    def branches(self) -> list[str]:
        """The computations that a conditional chooses from."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if listed:
            return re.findall(r"%([\w.-]+)", listed.group(1))
        return [self.calls[key] for key in ("true_computation", "false_computation") if key in self.calls]

    @property
    def source(self) -> str:
        """The operation of the traced program that it comes from."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found.group(1).replace("\\'", "'") if found else ""

    def has(self, text: str) -> bool:
        return text in self.attributes


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction]

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    @property
    def root(self) -> Instruction:
        return next(one for one in self if one.is_root)

    def operands(self, instruction: Instruction) -> list[Array]:
        """The leaves of its operands that are arrays of this computation."""
        found = (self.instructions.get(name) for name in instruction.operands)
        return [leaf for one in found if one is not None for leaf in one.result]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program. entry: the name of the computation that it starts with."""

    computations: dict[str, Computation]
    entry: str

    def called(self, instruction: Instruction) -> Computation | None:
        """The computation of a fusion, a call or an async start."""
        name = instruction.calls.get("calls") or instruction.calls.get("to_apply")
        return self.computations.get(name) if name else None

    def turns(self, loop: Instruction) -> int | None:
        """How often a while loop runs, as XLA notes it or as its condition `i < n` shows; None where neither does.

        The i of a traced scan begins at 0 and grows by 1.
        """
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(noted.group(1))
        condition = self.computations[loop.calls["condition"]]
        root = condition.root
        bound = [condition.instructions[name] for name in root.operands if name in condition.instructions][-1:]
        if root.opcode == "fusion":  # the comparison, wrapped
            constants = [one for one in condition if one.opcode == "constant"]
            inner = self.called(root)
            root, bound = inner.root if inner else root, constants if len(constants) == 1 else []
        if root.opcode == "compare" and root.has("direction=LT") and bound and bound[0].opcode == "constant":
            return int(bound[0].operands[0])
        return None


def parse(text: str) -> Module:
    """Reads `compiled.as_text()`."""
    computations, entry, name, body = {}, "", "", {}
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            header = re.match(r"(ENTRY )?%?([\w.-]+)", line)
            if header:
                name, body = header.group(2), {}
                entry = name if header.group(1) else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, body)
        elif line.startswith("  ") and " = " in line:
            one = _instruction(line.strip())
            body |= {part.name: part for part in _parts(one, body)} | {one.name: one}
    return Module(computations, entry)


def _parts(instruction: Instruction, body: dict[str, Instruction]) -> list[Instruction]:
    """The elements of tuples that it takes without an instruction of their own, as newer compilers print: `%loop#2`."""
    found = []
    for operand in instruction.operands:
        whole, _, index = operand.partition("#")
        if index and operand not in body and whole in body:
            leaf = body[whole].result[int(index)]
            found.append(Instruction(operand, "get-tuple-element", (leaf,), (whole,), f", index={index}", False))
    return found


def _instruction(line: str) -> Instruction:
    left, _, rest = line.partition(" = ")
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    end = _closing(rest, len(opcode))
    given = rest[len(opcode) : end]
    operands = (
        (given[1:-1],) if opcode in ("constant", "parameter") else tuple(re.findall(r"%([\w.-]+(?:#\d+)?)", given))
    )
    name = left.removeprefix("ROOT ").removeprefix("%")
    return Instruction(name, opcode, arrays(result), operands, rest[end:], left.startswith("ROOT "))


def _closing(text: str, start: int = 0) -> int:
    """The position after the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    raise ValueError(f"no closing bracket in {text[:80]!r}")


@functools.cache
def arrays(text: str) -> tuple[Array, ...]:
    """The leaves of a printed shape."""
    leaves = []
    for dtype, dims, layout in ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        leaves.append(Array(dtype, sizes, int(space.group(1)) if space else 0))
    return tuple(leaves)
