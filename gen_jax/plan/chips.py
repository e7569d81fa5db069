"""TPU chips and how they are wired, from Google's tables (cloud.google.com/tpu/docs: v4, v5e, v5p, v6e; 2026)."""

import dataclasses
import math
import re
from collections.abc import Sequence

from gen_jax.errors import ConfigError
from gen_jax.settings import nearest
from gen_jax.training import flops


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of TPU.

    Attributes:
      kind: what jax calls the device.
      hbm: bytes of memory that a program can have. bandwidth: of it, bytes/s.
      link: bytes/s that one port of the interconnect sends; it receives as much at the same time.
      dimensions: of the torus; two ports each.
      ring: a dimension of that many chips, or a multiple, closes to a ring; a line otherwise. A 3D torus is one of
        cubes whose optical switches close all of its dimensions, or none.
      config: libtpu's word for how the chip's TensorCores are used, where its own choice makes a device of each.
    """

    kind: str
    hbm: int
    bandwidth: float
    link: float
    dimensions: int
    ring: int
    config: str = ""

    @property
    def peak(self) -> float:
        """Dense bf16 FLOP/s."""
        return flops.PEAK[self.kind]


# Memory: what libtpu 0.0.42 says that a program has when it runs out of it, of 32, 16 and 32 GiB; of a v5p the 95 of 96
# GiB that Google's page gives, which reserves more than libtpu (95.74). Links: v4, 6 of 50 GB/s (Jouppi et al. 2023,
# "TPU v4", table 4; the page's 24 TB/s through the middle of a pod make 47 for each of 512); of the others the pages
# give the sum over all ports and both directions: 400, 1200, 800 GB/s (v5e, v5p, v6e). Rings: "How to Scale Your Model"
# (Austin et al. 2025), part 2; v5p's page: "All 4x4x4 and larger slices have full 3D torus".
GIB = 2**30
CHIPS = {
    "v4": Chip("TPU v4", int(30.75 * GIB), 1200e9, 50e9, 3, 4, "megacore"),
    "v5e": Chip("TPU v5 lite", int(15.75 * GIB), 819e9, 50e9, 2, 16),
    "v5p": Chip("TPU v5", 95 * GIB, 2765e9, 100e9, 3, 4),
    "v6e": Chip("TPU v6 lite", int(31.24 * GIB), 1638e9, 100e9, 2, 16),
}
LATENCY = 1e-6  # seconds a hop


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are wired together: `v5e:16x16`."""

    name: str
    chip: Chip
    sides: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.sides)

    def ways(self, covered: int, side: int) -> int:
        """Directions in which data flow among `covered` chips of a dimension of `side`: 2 on a ring, 1 on a line."""
        closing = self.sides if self.chip.dimensions == 3 else (side,)
        return 2 if covered == side and all(one % self.chip.ring == 0 for one in closing) else 1


def parse(name: str) -> Slice:
    """A topology by its name.

    Raises:
      ConfigError: the chip is unknown, or the shape is none of its own.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise ConfigError(f"--topology: unknown chip {kind!r}{nearest(kind, [*CHIPS])}")
    chip = CHIPS[kind]
    example = "x".join("4" * chip.dimensions)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or shape.count("x") + 1 != chip.dimensions:
        raise ConfigError(f"--topology: expected {chip.dimensions} sides, as {kind}:{example}, got {name!r}")
    return Slice(name, chip, tuple(map(int, shape.split("x"))))


def seconds(kind: str, payload: int, spans: Sequence[tuple[int, int]], where: Slice) -> float:
    """How long a collective takes.

    Args:
      kind: all-gather, reduce-scatter, all-reduce, all-to-all or collective-permute.
      payload: bytes, as `collectives.Collective` has them.
      spans: of a group, along each dimension of the torus: how many places it takes, and how far they are apart.

    A group's dimensions work at the same time, each in both directions where it is a whole ring; groups that lie
    between each other's chips share the links. An all-gather of S bytes over n chips sends S (n - 1) / n through each;
    an all-reduce is a reduce-scatter and an all-gather. An all-to-all waits for what crosses the middle of its longest
    side: of n chips in a row with P bytes each, n / 2 send half of theirs, n P / 4, through one link of a line or two
    of a ring, which makes n P / 4 and n P / 8 a link; chips along other dimensions have links of their own there. A
    hop takes 1 us.
    """
    along = zip(spans, where.sides, strict=False)  # devices of a 2D slice have a third coordinate, always 0
    used = [(count, apart, where.ways(count * apart, side)) for (count, apart), side in along if count > 1]
    if not used:
        return 0.0
    n = math.prod(count for count, _, _ in used)
    hops = sum(count * apart / ways for count, apart, ways in used) * LATENCY
    rate = where.chip.link * sum(ways / apart for _, apart, ways in used)
    if kind == "collective-permute":
        return payload / where.chip.link + LATENCY
    if kind == "all-to-all":
        return payload * max(count * apart / ways for count, apart, ways in used) / (4 * where.chip.link) + hops
    times = 2 if kind == "all-reduce" else 1
    return times * (payload * (n - 1) / n / rate + hops)
