"""The devices of a slice of TPUs that is not here, and how a mesh lies on its torus."""

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gen_jax import compat
from gen_jax.errors import ConfigError, first_line
from gen_jax.plan import chips, collectives, roofline
from gen_jax.plan.chips import Slice

# libtpu looks for the machine that it is on, in vain and loudly, and lets one process have it
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices(where: Slice) -> list[Any]:
    """The devices of a slice, as a jax that ran on it would list them.

    Raises:
      ConfigError: libtpu is not installed, or has no such topology, or another number of devices than of chips.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("--topology: expected libtpu, the TPU's compiler; run: pip install 'gen_jax[plan]'")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options = {"chip_config_name": where.chip.config} if where.chip.config else {}
    try:
        found = compat.topologies.get_topology_desc(platform="tpu", topology_name=where.name, **options).devices
    except Exception as error:  # what jax and libtpu raise for a wrong name is not documented
        raise ConfigError(
            f"--topology: expected one that libtpu knows, got {where.name!r}: {first_line(error)}"
        ) from None
    if len(found) != where.size:
        raise ConfigError(f"--topology: expected {where.size} devices of {where.name}, one a chip, got {len(found)}")
    return list(found)


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Without jax's cache of programs: it cannot read those of devices that are not here."""
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)
    compat.reset_cache()  # it asks once whether it is enabled
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compat.reset_cache()


def compiled(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, str]:
    """A program for the devices of a slice and its text, which libtpu writes: jaxlib cannot read all that it makes."""
    with _uncached(), tempfile.TemporaryDirectory() as folder:
        made = lowered.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        return made, next(Path(folder).glob("*.after_codegen.txt")).read_text()


def machine(where: Slice, mesh: jax.sharding.Mesh) -> roofline.Roofline:
    """The roofline of a slice whose devices are laid out as in `mesh`."""
    places = coordinates(mesh)

    def seconds(one: collectives.Collective) -> float:
        return chips.seconds(one.kind, one.payload, collectives.spans(one.groups, places), where)

    return roofline.Roofline(where.chip.peak, where.chip.bandwidth, seconds, mesh.devices.size)


def coordinates(mesh: jax.sharding.Mesh) -> np.ndarray:
    """Where each device of the mesh is on the torus, [devices, 3]."""
    return np.asarray([device.coords for device in mesh.devices.flat])


def placement(mesh: jax.sharding.Mesh) -> dict[str, str]:
    """For each axis, the places that it takes on the torus: `16 on x, 4 on y every 4th`."""
    numbers = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
    found = {}
    for i, (name, size) in enumerate(mesh.shape.items()):
        taken = collectives.spans(np.moveaxis(numbers, i, -1).reshape(-1, size), coordinates(mesh))
        parts = [
            f"{count} on {side}" + (f" {apart} apart" if apart > 1 else "")
            for side, (count, apart) in zip("xyz", taken, strict=True)
            if count > 1
        ]
        found[name] = ", ".join(parts) or "1"
    return found
