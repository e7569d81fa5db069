"""Where the files of `gen-jax sample` go: names that are free, so that nothing is overwritten unasked."""

import argparse
import io
import itertools
import os
from typing import Any

import numpy as np
from etils import epath

from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.io.disk import is_remote
from gen_jax.runs.run_dir import RunDir, absolute


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=paths.flag, help="directory for the files; default: WORKDIR/samples")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same name, do not number them")


def folder(args: argparse.Namespace, run_dir: RunDir) -> epath.Path:
    """The directory that `--out` names, made where it is missing.

    Raises:
      ConfigError: as `made`.
    """
    return made(absolute(args.out) if args.out else run_dir.samples)


def made(path: epath.Path) -> epath.Path:
    """The directory `path`, made where it is missing.

    Raises:
      ConfigError: it cannot be made, or files cannot be made in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: expected a directory that can be made, got {path}: {error.strerror}") from None
    if not is_remote(path) and not os.access(path, os.W_OK):
        raise ConfigError(f"--out: expected a directory that can be written, got {path}")
    return path


def free(folder: epath.Path, stem: str, *, overwrite: bool) -> str:
    """`stem`, or `stem-2`, `stem-3`, ...: the first that no file is named after; `stem` itself to `overwrite`."""
    taken = [path.name for path in folder.iterdir()]
    for i in itertools.count(1):
        name = stem if i == 1 else f"{stem}-{i}"
        if overwrite or not any(other == name or other.startswith((f"{name}.", f"{name}_")) for other in taken):
            return name
    raise AssertionError("there is always a next number")


def npz(**arrays: Any) -> bytes:
    """The arrays as a compressed .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
