"""Arrays cached between runs, in $GEN_JAX_CACHE, else ~/.cache/gen_jax."""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gen_jax.parallel.processes import everywhere

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GEN_JAX_CACHE") or Path(base) / "gen_jax")


def cached(name: str, build: Callable[[], Arrays]) -> Arrays:
    """`build()`, or its cached result from `<name>.npz` in `folder()`.

    `name` must change whenever the result would. If nothing can be written, the result is built each time. All
    processes call this; if one of them has no cached result, all build, since `build` may compute over all their
    devices.
    """
    path = folder() / f"{name}.npz"
    kept = _read(path)
    if everywhere(kept is not None):
        assert kept is not None
        return kept
    arrays = build()
    if kept is None:
        store(path, lambda file: np.savez(file, **arrays))  # pyright: ignore[reportArgumentType]
    return arrays


def store(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Makes a whole file or nothing, which is no error; several processes may make the same one at once."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                write(file)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _read(path: Path) -> Arrays | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            return dict(saved)
    except Exception:  # absent or damaged: numpy and zipfile raise many kinds
        return None
