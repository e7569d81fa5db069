"""A config's real training step, compiled for TPUs that are not here, and what the compiled program says.

`topologies` of jax describe the chips; libtpu holds their compiler. No array is made: the step is lowered from shapes.
"""

import collections
import dataclasses
import importlib.metadata
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gen_jax.config import Experiment
from gen_jax.core import ops
from gen_jax.core.state import PyTree
from gen_jax.data.datasets import ExampleSet, TokenSet
from gen_jax.data.source import Info
from gen_jax.errors import ConfigError, DataError
from gen_jax.models.abilities_base import DeclaresData
from gen_jax.models.base import Preprocesses
from gen_jax.parallel import sharding
from gen_jax.plan import gathers, hlo, roofline, topology
from gen_jax.plan.chips import Slice
from gen_jax.training.program import Program

TARGET = re.compile(r'custom_call_target="([^"]*)"')
OWN = re.compile(r"([A-Z][a-z]+)+")  # the compiler's marks, as AllocateBuffer; a kernel of Pallas is a tpu_custom_call
SPARE = 0.1  # of the memory, which a plan should leave
EXPOSED = 0.3  # of the time of the rest, which collectives that nothing hides should stay below


class DoesNotFit(ConfigError):
    """The compiler ran out of the chip's memory."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The collectives of one kind over one set of mesh axes, of one step.

    payload: bytes that each chip has when they end (reduce-scatter: when they begin). sent: bytes that leave a chip on
      a ring, (n - 1) / n of them, twice that for an all-reduce. seconds: on their own.
    """

    kind: str
    axes: str
    count: float
    payload: float
    sent: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """One training step on one slice; everything is of one chip and one step unless it says otherwise.

    Attributes:
      config: its name. topology: `v5e:16x16`. chips: in all. mesh: axis -> devices.
      placement: axis -> where it lies on the torus. batch_size: of all chips.
      parameters: how many, of all networks.
      memory: bytes by use, and `total`. hbm: bytes that the chip has.
      flops: of the compiled program. model_flops: of forward and backward pass, all chips, nothing computed again.
      repeated: the compiled program's work on all chips over that of the traced step: 1 unless chips do the same.
      bytes: to and from the memory. compute, exposed: seconds; their sum is the step. mfu: of the peak.
      collectives: by kind and axes. warnings: what should be changed. notes: what to know.
      compile_seconds: tracing, lowering and compiling, on the machine that made the plan; cpu_seconds: of its cores.
      versions: of jax and of libtpu, whose compiler it is.
    """

    config: str
    topology: str
    chips: int
    mesh: dict[str, int]
    placement: dict[str, str]
    batch_size: int
    parameters: int
    memory: dict[str, int]
    hbm: int
    flops: float
    model_flops: float
    repeated: float
    bytes: float
    compute: float
    exposed: float
    mfu: float
    collectives: list[Traffic]
    warnings: list[str]
    notes: list[str]
    compile_seconds: float
    cpu_seconds: float
    versions: dict[str, str]
    assumptions: str = roofline.ASSUMPTIONS

    @property
    def step(self) -> float:
        """Seconds."""
        return self.compute + self.exposed

    @property
    def fits(self) -> bool:
        """With a tenth of the memory to spare."""
        return self.memory["total"] <= (1 - SPARE) * self.hbm

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"step": self.step, "fits": self.fits}


def make(name: str, experiment: Experiment, where: Slice, say: Callable[[str], None] = lambda line: None) -> Plan:
    """Compiles the training step of a config for a slice and reads the plan off the program; `say` reports it.

    Raises:
      ConfigError, DataError: as `Program`; and where the mesh leaves chips of the slice out.
      DoesNotFit: the compiler ran out of memory.
    """
    if experiment.parallel != "jit":
        raise ConfigError(f"config.parallel: expected jit for a plan, got {experiment.parallel}")
    if experiment.platform not in ("any", "tpu"):
        raise ConfigError(f"config.platform: expected any or tpu for a plan, got {experiment.platform}")
    with ops.compiling_for("tpu"):
        program, notes = _program(experiment, topology.devices(where))
        if (used := program.mesh.devices.size) != where.size:
            raise ConfigError(f"config.mesh: expected {where.size} devices, all of {where.name}, got {used}")
        say(f"compiling for {where.name}, up to some minutes")
        started, cpu = time.perf_counter(), time.process_time()
        inputs, step = abstract_inputs(program), program.compiled_step
        try:
            compiled, text = topology.compiled(step.lower(*inputs))
        except jax.errors.JaxRuntimeError as error:
            raise does_not_fit(error, where) from None
        took, cpu = time.perf_counter() - started, time.process_time() - cpu
        model_flops, traced = program.flops_per_step(), program.flops_per_step(recomputed=True)
    module = hlo.parse(text)
    totals = topology.machine(where, program.mesh).run(module)
    k, chip, n = experiment.steps_per_call, where.chip, program.mesh.devices.size
    mesh = dict(program.mesh.shape)
    plan = Plan(
        config=name,
        topology=where.name,
        chips=n,
        mesh=mesh,
        placement=topology.placement(program.mesh),
        batch_size=experiment.batch_size,
        parameters=sum(program.shapes.sizes.values()),
        memory=memory(program, inputs, compiled.memory_analysis()),
        hbm=chip.hbm,
        flops=totals.flops / k,
        model_flops=model_flops,
        repeated=totals.flops / k * n / traced if traced else 1.0,
        bytes=totals.bytes / k,
        compute=totals.compute / k,
        exposed=totals.exposed / k,
        mfu=model_flops * k / (totals.seconds * chip.peak * n),
        collectives=traffic(totals, mesh, k),
        warnings=gathers.warnings(totals, program, mesh),
        notes=notes,
        compile_seconds=took,
        cpu_seconds=cpu,
        versions={name: importlib.metadata.version(name) for name in ("jax", "libtpu")},
    )
    plan.warnings.extend(_warnings(plan, totals))
    plan.notes.extend(kernels(module))
    return plan


def _warnings(plan: Plan, totals: roofline.Totals) -> list[str]:
    found = []
    if not plan.fits:
        found.append(f"memory: {plan.memory['total'] / plan.hbm:.0%} of it are used; expected {1 - SPARE:.0%} at most")
    if plan.exposed > EXPOSED * plan.compute:
        share = plan.exposed / plan.compute
        found.append(f"collectives: {share:.2f} of the compute time is exposed; expected {EXPOSED} at most")
    if plan.repeated > 1.1:
        found.append(f"work: the chips do {plan.repeated:.2f} times what the step needs; they compute the same things")
    if totals.unknown_loops:
        found.append(f"{totals.unknown_loops} loops of unknown length are counted once")
    return found


def kernels(module: hlo.Module) -> list[str]:
    """A line for what hand-written kernels hide from the count; none where the program has none."""
    found = [one for part in module.computations.values() for one in part if one.opcode == "custom-call"]
    counts = collections.Counter(target for one in found for target in TARGET.findall(one.attributes))
    own = {target: n for target, n in counts.items() if not OWN.fullmatch(target)}
    listed = ", ".join(f"{n} x {target}" for target, n in sorted(own.items()))
    return [f"custom calls, whose work is not known, count 0 FLOP: {listed}"] if own else []


def _program(experiment: Experiment, found: list[Any]) -> tuple[Program, list[str]]:
    """The program on devices that are not here; where its data are missing, on some of the same shape."""
    dataset, notes = None, []
    try:
        program = Program(experiment, devices=found)
    except DataError as error:
        if (dataset := stand_in(experiment)) is None:
            raise
        program, notes = Program(experiment, dataset, devices=found), [f"{error}; planned with rows of its shape"]
    if isinstance(program.model, Preprocesses):
        program = Program(experiment, with_inputs(program), devices=found)
        size = program.dataset.sizes["train"]
        notes.append(f"inputs are computed before the first step and stay on the devices, here of {size:,} examples")
    return program, notes


def stand_in(experiment: Experiment) -> TokenSet | ExampleSet | None:
    """Zeros in the shape of a config's text or images; None if the config does not determine it."""
    model, rows = experiment.model, experiment.batch_size + 1
    if isinstance(model, DeclaresData) and (info := model.example()):
        labels = {"label": np.zeros(rows, np.int32)} if info.num_classes else {}
        fetch = {"train": lambda index: {"image": np.zeros((len(index), *info.shape), np.uint8)}}
        return ExampleSet(info, {"train": labels}, experiment.seed, fetch, {"train": rows})
    source: Any = experiment.data
    vocab = getattr(model, "vocab", 0)
    if not vocab or not hasattr(source, "context"):
        return None
    tokens = np.broadcast_to(np.uint16(0), rows * (source.context + 1))
    info = Info("tokens", (source.context + 1,), vocab_size=vocab, end=getattr(model, "end", None))
    return TokenSet(info, {"train": tokens}, experiment.seed, source.order, resident=False)


def with_inputs(program: Program) -> Any:
    """The data of a second stage with zeros in the shape of what `preprocess` computes."""
    found = jax.eval_shape(program.model.preprocess, program.shapes, program.first_batch_shapes)
    zeros = {name: np.zeros((), leaf.dtype) for name, leaf in found.items()}

    def rows(n: int) -> dict[str, np.ndarray]:
        return {name: np.broadcast_to(zeros[name], (n, *leaf.shape[1:])) for name, leaf in found.items()}

    return program.dataset.with_arrays({split: rows(n) for split, n in program.dataset.sizes.items() if n})


def abstract_inputs(program: Program) -> tuple[PyTree, PyTree, PyTree]:
    """Shapes and shardings of the state, of the resident data and of the rows of one call."""
    k = program.experiment.steps_per_call

    def placed(tree, sharding_, leading=()):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype, sharding=sharding_), tree)

    resident = placed(program.feeder.feed.resident, sharding.replicated(program.mesh))
    rows = placed(program.feeder.feed.rows(0), sharding.rows(program.mesh, leading=1), (k,))
    return program.abstract, resident, rows


def device_bytes(tree: PyTree) -> int:
    """Of shapes with shardings, on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def memory(program: Program, inputs: tuple[PyTree, PyTree, PyTree], found: Any) -> dict[str, int]:
    """Bytes on each chip by use; the compiler's own count gives the total."""
    nets = inputs[0].nets.values()
    parts = {
        "parameters": sum(device_bytes(net.params) for net in nets),
        "optimizer": sum(device_bytes(net.opt) for net in nets),
        "ema": sum(device_bytes(net.ema) for net in nets),
        "batch": device_bytes(inputs[1:]),
    }
    # XLA drops arguments that the step does not read, such as a first stage; they stay on the chip
    arguments = max(found.argument_size_in_bytes, device_bytes(inputs))
    parts["other state and padding"] = arguments - sum(parts.values())
    parts["outputs"] = found.output_size_in_bytes - found.alias_size_in_bytes
    parts["activations and temporaries"] = found.temp_size_in_bytes
    parts["program"] = found.generated_code_size_in_bytes
    return parts | {"total": sum(parts.values())}


def traffic(totals: roofline.Totals, mesh: dict[str, int], steps: int = 1) -> list[Traffic]:
    """Sums of one step, the longest first."""
    sums: dict[tuple[str, str], np.ndarray] = {}
    for one, seconds, count in totals.collectives:
        row = count / steps * np.asarray([1.0, one.payload, one.sent, seconds])
        key = one.kind, one.axes(mesh)
        sums[key] = sums.get(key, 0.0) + row
    rows = [Traffic(*key, *map(float, row)) for key, row in sums.items()]
    return sorted(rows, key=lambda row: -row.seconds)


def does_not_fit(error: Exception, where: Slice) -> Exception:
    """The compiler's error as one line, where it is one of memory; else the error."""
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" not in text:
        return error
    size = r"([\d.]+[KMGT])"
    sizes = re.search(rf"\({size}\) exceeds[^(]*\({size}\)|Used {size} of {size}", text)
    needs, has = filter(None, sizes.groups()) if sizes else ("more", f"{where.chip.hbm / 2**30:.0f}G")
    return DoesNotFit(
        f"config: the step does not fit {where.name}: it needs {needs} of a chip's memory, where {has} are free"
    )
