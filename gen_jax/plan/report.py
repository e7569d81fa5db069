"""A plan as text, as JSON and as a picture."""

import json
from pathlib import Path
from typing import Any

import rich.box
import rich.console
import rich.table

from gen_jax.plan import chips
from gen_jax.plan.planner import Plan
from gen_jax.runs import plots

COLUMNS = 120


def quantity(value: float | int, unit: str) -> str:
    """A number with its prefix: 1.23 GB."""
    for prefix, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def text(plan: Plan) -> str:
    """The plan of one slice, for people."""
    chip = chips.parse(plan.topology).chip
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    lines = [
        f"{plan.config} on {plan.topology}: {plan.chips} chips, {mesh}; {plan.parameters:,} parameters, "
        f"batch {plan.batch_size} ({plan.batch_size / plan.chips:g} a chip)",
        "on the torus: " + "; ".join(f"{name}: {where}" for name, where in plan.placement.items()),
        f"\nmemory of a chip, {quantity(plan.hbm, 'B')}:",
        *(f"  {name:28}{quantity(size, 'B'):>10}{size / plan.hbm:>8.1%}" for name, size in plan.memory.items()),
        "  not planned: evaluation, sampling, the first state",
        "\nwork of a chip and a step:",
        f"  matrix products {quantity(plan.flops, 'FLOP')}, {quantity(plan.flops / chip.peak, 's')} at the peak",
        f"  memory traffic {quantity(plan.bytes, 'B')}, {quantity(plan.bytes / chip.bandwidth, 's')} at the bandwidth",
        f"  the model's own work {quantity(plan.model_flops, 'FLOP')} on all chips; "
        f"the program does {plan.repeated:.2f} times what was traced",
        "\ncollectives of a chip and a step:",
        *_collectives(plan),
        f"\npredicted: step {quantity(plan.step, 's')} = compute {quantity(plan.compute, 's')} + exposed collectives "
        f"{quantity(plan.exposed, 's')} ({plan.exposed / plan.compute:.2f} of the compute); MFU {plan.mfu:.1%}",
        f"assumed: {plan.assumptions} A {chip.kind}: {quantity(chip.peak, 'FLOP/s')}, "
        f"{quantity(chip.bandwidth, 'B/s')}, {quantity(chip.link, 'B/s')} a link and direction, 2 x "
        f"{chip.dimensions} links.",
        f"compiled in {plan.compile_seconds:.0f} s, {plan.cpu_seconds:.0f} s of CPU, by "
        + ", ".join(f"{name} {version}" for name, version in plan.versions.items()),
        *(f"note: {line}" for line in plan.notes),
        *(f"warning: {line}" for line in plan.warnings),
    ]
    return "\n".join(lines)


def _collectives(plan: Plan) -> list[str]:
    rows = [("", "over", "count", "bytes", "sent", "time")]
    for one in plan.collectives:
        sizes = quantity(one.payload, "B"), quantity(one.sent, "B"), quantity(one.seconds, "s")
        rows.append((one.kind, one.axes, f"{one.count:g}", *sizes))
    return (
        [f"  {a:20}{b:18}{c:>8}{d:>12}{e:>12}{f:>12}" for a, b, c, d, e, f in rows] if plan.collectives else ["  none"]
    )


def table(plans: list[Plan], first: str = "topology") -> str:
    """One line a plan, in order."""
    made = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for name in (
        first,
        "chips",
        "mesh",
        "batch",
        "memory",
        "step",
        "exposed/compute",
        "MFU",
        "sent a chip",
        "compiled",
    ):
        made.add_column(name, justify="left" if name == first else "right", no_wrap=True)
    for plan in plans:
        made.add_row(
            plan.topology,
            str(plan.chips),
            "x".join(map(str, plan.mesh.values())),
            str(plan.batch_size),
            f"{plan.memory['total'] / plan.hbm:.0%}" + ("" if plan.fits else " !"),
            quantity(plan.step, "s"),
            f"{plan.exposed / plan.compute:.2f}",
            f"{plan.mfu:.1%}",
            quantity(sum(one.sent for one in plan.collectives), "B"),
            f"{plan.compile_seconds:.0f} s",
        )
    console = rich.console.Console(width=COLUMNS)
    with console.capture() as captured:
        console.print(made)
    return captured.get().rstrip()


def write(path: Path, plans: list[Plan]) -> None:
    """The plans as JSON: one object, or a list of several."""
    found = [plan.as_json() for plan in plans]
    content: Any = found[0] if len(found) == 1 else found
    path.write_text(json.dumps(content, indent=2) + "\n")


def weak_scaling(plans: list[Plan]) -> bytes:
    """PNG: bytes that a chip sends, and the predicted step, by the number of chips."""
    kinds = sorted({one.kind for plan in plans for one in plan.collectives})
    sent = {
        kind: [sum(one.sent for one in plan.collectives if one.kind == kind) / 1e6 for plan in plans] for kind in kinds
    }
    times = {
        "step": [1e3 * plan.step for plan in plans],
        "without collectives": [1e3 * plan.compute for plan in plans],
    }
    panels = {"collectives: sent by a chip in a step": sent, "predicted step": times}
    sizes, title = [plan.chips for plan in plans], "Weak scaling: the batch grows with the chips"
    return plots.png(plots.scaling(sizes, panels, title=title, axis="chips", units=("MB", "ms")))
