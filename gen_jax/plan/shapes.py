"""Several plans of one config: other meshes and batches on one slice, or the same on slices of other sizes."""

import math
import time
from collections.abc import Callable, Iterator

from gen_jax import config as configs
from gen_jax.config import Experiment
from gen_jax.errors import ConfigError
from gen_jax.plan import planner, report
from gen_jax.plan.chips import Slice
from gen_jax.plan.planner import Plan
from gen_jax.runs.progress import Progress

MODEL = 8  # devices on the axis `model`, at most: there is a collective after every second matrix product
BATCHES = (1, 2)  # times the config's batch


def scale(
    name: str, experiment: Experiment, slices: list[Slice], on_plan: Callable[[list[Plan]], object]
) -> list[Plan]:
    """A plan for each slice; the config's batch is that of the largest, and each chip has as much on all of them.

    Args:
      on_plan: called with the plans so far after each.

    Raises:
      ConfigError: the batch cannot be cut so; and as `planner.make`.
    """
    most, plans = max(one.size for one in slices), []
    with Progress("plan", len(slices), unit="slice") as progress:
        for i, where in enumerate(slices):
            progress.update(i, where.name)
            batch, over = divmod(experiment.batch_size * where.size, most)
            if over or not batch:
                raise ConfigError(
                    f"config.batch_size: expected a multiple of {most // where.size}, so that {where.name} has its "
                    f"share, got {experiment.batch_size}"
                )
            sized = experiment if where.size == most else _sized(experiment, {}, batch)
            plans.append(planner.make(name, sized, where, progress.say))
            on_plan(plans)
            if len(slices) > 1:
                progress.say(line(plans[-1]))
    return plans


def sweep(name: str, experiment: Experiment, where: Slice, on_plan: Callable[[list[Plan]], object]) -> list[Plan]:
    """Plans of other meshes and batches, the ones that fit first, those with more tokens or examples a second on top.

    Args:
      on_plan: called with the plans so far after each.

    Raises:
      ConfigError: nothing fits.
    """
    tried = [*candidates(experiment, where)]
    plans: list[Plan] = []
    with Progress("plan", len(tried), unit="mesh") as progress:
        for i, (mesh, batch) in enumerate(tried):
            what = f"{' x '.join(f'{axis} {size}' for axis, size in mesh.items())}, batch {batch}"
            progress.update(i, what)
            started = time.perf_counter()
            try:
                plans.append(planner.make(name, _sized(experiment, mesh, batch), where))
            except ConfigError as error:
                progress.say(f"{what}: {error} ({time.perf_counter() - started:.0f} s)")
                continue
            progress.say(line(plans[-1]))
            plans.sort(key=lambda plan: (not plan.fits, plan.step / plan.batch_size))
            on_plan(plans)
        progress.update(len(tried))
    if not plans:
        raise ConfigError(f"--sweep: expected a mesh and a batch that fit {where.name}, found none of {len(tried)}")
    return plans


def line(plan: Plan) -> str:
    """A plan in one line, while others are made."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    used = plan.memory["total"] / plan.hbm
    return (
        f"{plan.topology} {mesh}, batch {plan.batch_size}: step {report.quantity(plan.step, 's')}, MFU {plan.mfu:.1%}, "
        f"exposed/compute {plan.exposed / plan.compute:.2f}, memory {used:.0%} ({plan.compile_seconds:.0f} s)"
    )


def candidates(experiment: Experiment, where: Slice) -> Iterator[tuple[dict[str, int], int]]:
    """Meshes of the axes that the rules name, with batches that they divide; `data` has the rest.

    `model` is a power of 2, up to 8; `fsdp` is 1, a power of 4, or all that `model` leaves.
    """
    rules = [rule for _, rule in experiment.sharding]
    named = {axis for rule in rules for axis in ((rule,) if isinstance(rule, str) else rule)}
    powers = [2**i for i in range(int(math.log2(MODEL)) + 1)] if "model" in named else [1]
    for times in BATCHES:
        batch = experiment.batch_size * times
        for model in powers:
            rows, over = divmod(where.size, model)
            if over or not rows or batch % rows:
                continue
            for fsdp in sorted({rows, *(4**i for i in range(16))}) if "fsdp" in named else [1]:
                if rows % fsdp == 0:
                    yield {"data": rows // fsdp, "fsdp": fsdp, "model": model}, batch


def _sized(experiment: Experiment, mesh: dict[str, int], batch: int) -> Experiment:
    """The config with another mesh and batch; evaluation, which is not planned, has the same batch."""
    values = {f"mesh.{axis}": size for axis, size in mesh.items()}
    return configs.replaced(experiment, values | {"batch_size": batch, "eval_batch_size": batch})
