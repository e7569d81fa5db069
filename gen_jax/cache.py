"""Arrays that are kept between runs: $GEN_JAX_CACHE, else ~/.cache/gen_jax."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GEN_JAX_CACHE") or Path(base) / "gen_jax")


def cached(name: str, build: Callable[[], Arrays]) -> Arrays:
    """`build()`, or what it gave the last time; kept as `<name>.npz` in `folder()`.

    `name` must change whenever the result would. Where nothing can be written, it is built each time.
    """
    path = folder() / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as saved:
            return dict(saved)
    except Exception:  # absent or damaged: numpy and zipfile raise many kinds
        arrays = build()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
    return arrays
