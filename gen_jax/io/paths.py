"""Expands paths that a user writes, with `~`, and shortens them for display."""

import argparse
import os

from gen_jax.settings import expand


def flag(text: str) -> str:
    """`expand` for `argparse`: the `type` of every flag that takes a path; its default is no empty text."""
    try:
        if not text:
            raise ValueError("expected a path, got ''")
        return expand(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_config(parser: argparse.ArgumentParser) -> None:
    """The flag `--config` of every command that reads one."""
    kinds = "a file with get_config(arg), as FILE.py[:arg], or one of gen_jax's, as vae/digits[:arg]"
    parser.add_argument("--config", type=flag, required=True, help=kinds)


def shortest(path: str | os.PathLike) -> str:
    """The shorter of an absolute path and the path relative to the current folder."""
    path = os.fspath(path)
    if "://" in path:
        return path
    return min(path, os.path.relpath(path), key=len)
