"""manifest.json of a run directory: the run's id, and what each start of it depended on besides its config."""

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from gen_jax.io import json_text
from gen_jax.io.disk import write_atomic, writing
from gen_jax.runs.status import timestamp

PACKAGES = ("gen-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "tensorflow-datasets")
log = logging.getLogger(__name__)


def run_id(file: epath.Path) -> str:
    """The id that all checkpoints of a run share, "" if there is none."""
    return _read(file).get("run", "")


def begin(file: epath.Path, known: str) -> None:
    """Gives a run its id: `known`, or a new one if that is "". A damaged file is renamed, with a warning."""
    found = _read(file)
    if file.exists() and not found:
        aside = file.parent / f"{file.name}.damaged"
        log.warning("%s is damaged: it is put aside as %s, a new one begins", file, aside.name)
        with writing(aside):
            file.replace(aside)
    if "run" not in found:
        _write(file, {"run": known or uuid.uuid4().hex, "starts": found.get("starts", [])})


def append(file: epath.Path, start: Mapping[str, Any]) -> None:
    """Adds a start. Raises StorageError if that cannot be written."""
    found = _read(file)
    _write(file, {**found, "starts": [*found.get("starts", []), dict(start)]})


def starts(file: epath.Path) -> list[dict[str, Any]]:
    """All starts of a run, oldest first; none where the file is missing or damaged."""
    return _read(file).get("starts", [])


def _read(file: epath.Path) -> dict[str, Any]:
    try:
        found = json_text.loads(file.read_text()) if file.exists() else {}
    except (OSError, ValueError):
        return {}
    well = isinstance(found, dict) and isinstance(found.get("starts"), list) and isinstance(found.get("run", ""), str)
    return found if well else {}


def _write(file: epath.Path, content: Mapping[str, Any]) -> None:
    write_atomic(file, json.dumps(content, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """The environment that results may depend on besides the config."""
    return {
        "time": timestamp(),
        "command": sys.argv,
        "git": _git(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "devices": [str(device) for device in jax.devices()],
        "platform": jax.default_backend(),
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _git() -> dict[str, Any] | None:
    def run(*command: str) -> str:
        folder = os.path.dirname(os.path.abspath(__file__))
        return subprocess.run(
            ["git", *command], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
