"""A compiled program on a chip, by its roofline: instructions in the order of the schedule, loops times their turns.

An instruction takes the longer of its work at the chip's peak and its bytes at the memory's bandwidth. Copies that run
beside the rest cost bandwidth only: a loop's body takes no less than all its bytes do. Collectives share one network,
one after the other. One with separate start and end instructions overlaps with the instructions between them; the rest
of its time, and all the time of any other, is exposed. Of a conditional's branches the slowest is taken.

It is an estimate, not a bound. Too short: work of other kinds than matrix products and convolutions where its data lie
on the chip, the cost of starting an instruction, and how far kernels stay below the peak are left out. Too long:
collectives over different dimensions of the torus can run at once.
"""

import collections
import dataclasses
from collections.abc import Callable

from gen_jax.plan import collectives, work
from gen_jax.plan.collectives import Collective
from gen_jax.plan.hlo import Instruction, Module

ASSUMPTIONS = (
    "an instruction takes the longer of its work at the bf16 peak and its bytes at the bandwidth of the memory; "
    "collectives run on a torus whose dimensions work at once, 1 us a hop; one without a start and an end of its own "
    "is wholly exposed. An estimate: kernels reach their peaks here, and collectives wait for each other."
)


@dataclasses.dataclass
class Totals:
    """What a computation does on one chip, everything it calls included.

    Attributes:
      flops, bytes: work and traffic with the main memory.
      compute: seconds without collectives. exposed: seconds of collectives that nothing hides.
      collectives: each with its seconds and how often it runs.
      unknown_loops: loops whose turns XLA does not know, counted once.
    """

    flops: float = 0.0
    bytes: float = 0.0
    compute: float = 0.0
    exposed: float = 0.0
    collectives: list[tuple[Collective, float, int]] = dataclasses.field(default_factory=list)
    unknown_loops: int = 0

    @property
    def seconds(self) -> float:
        return self.compute + self.exposed

    def add(self, other: "Totals", times: int = 1) -> None:
        """What was called `times` times."""
        for name in ("flops", "bytes", "compute", "exposed"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        self.unknown_loops += other.unknown_loops
        self.collectives += [(one, seconds, count * times) for one, seconds, count in other.collectives]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The machine.

    Attributes:
      peak: FLOP/s. bandwidth: of the main memory, bytes/s.
      seconds: a collective's time. devices: in the program.
    """

    peak: float
    bandwidth: float
    seconds: Callable[[Collective], float]
    devices: int

    def run(self, module: Module) -> Totals:
        """The whole program."""
        return self._computation(module, module.entry, {})

    def _computation(self, module: Module, name: str, known: dict[str, Totals]) -> Totals:
        if name not in known:
            known[name] = self._scheduled(module, name, known)
        return known[name]

    def _scheduled(self, module: Module, name: str, known: dict[str, Totals]) -> Totals:
        computation, total, clock = module.computations[name], Totals(), _Clock()
        for one in computation:
            if inner := self._inner(module, one, known):
                turns = module.turns(one) if one.opcode == "while" else 1
                times = turns or 1
                total.add(inner, times)
                total.unknown_loops += turns is None
                clock.work(times * inner.seconds)
                continue
            flops, traffic = work.flops(module, computation, one), work.traffic(module, computation, one)
            beside = one.opcode.endswith("-start") and traffic > 0
            seconds = 0.0 if beside else max(flops / self.peak, traffic / self.bandwidth)
            found = collectives.of(module, computation, one, self.devices)
            phase = collectives.phase(module, one)
            if found and phase != "done" and found.channel not in clock.ends:
                took = self.seconds(found)
                total.collectives.append((found, took, 1))
                clock.start(found.channel, took)
                if phase == "sync":
                    clock.end(found.channel)
                else:
                    clock.names[one.name] = found.channel
                seconds = flops / self.peak  # its bytes come over the network
            elif found and phase == "done":
                clock.end(found.channel)
            elif one.opcode.endswith("-update"):
                clock.names[one.name] = clock.names[one.operands[0]]
            elif one.opcode.endswith("-done"):
                clock.end(clock.names.get(one.operands[0], "") if one.operands else "")
            clock.work(seconds)
            total.flops, total.bytes, total.compute = (
                total.flops + flops,
                total.bytes + traffic,
                total.compute + seconds,
            )
        for channel in [*clock.ends]:  # what no instruction here waits for, the next computation does
            clock.end(channel)
        total.compute, total.exposed = max(total.compute, total.bytes / self.bandwidth), total.exposed + clock.waited
        return total

    def _inner(self, module: Module, one: Instruction, known: dict[str, Totals]) -> Totals | None:
        if one.opcode == "while":
            return self._computation(module, one.calls["body"], known)
        if one.opcode == "conditional":
            return max((self._computation(module, name, known) for name in one.branches), key=lambda t: t.seconds)
        if one.opcode == "call" and (called := module.called(one)):
            return self._computation(module, called.name, known)
        return None


class _Clock:
    """Time of the chip and of its network, in seconds since the computation began."""

    def __init__(self):
        self.now = self.free = self.waited = 0.0
        self.ends: dict[str, float] = {}
        self.names: dict[str, str] = collections.defaultdict(str)  # a start or an update -> its channel

    def work(self, seconds: float) -> None:
        self.now += seconds

    def start(self, channel: str, seconds: float) -> None:
        self.free = max(self.now, self.free) + seconds
        self.ends[channel] = self.free

    def end(self, channel: str) -> None:
        """Waits for a collective that was started."""
        wait = max(0.0, self.ends.pop(channel, 0.0) - self.now)
        self.now, self.waited = self.now + wait, self.waited + wait
