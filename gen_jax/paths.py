"""Paths as a user writes them, with `~`, and as they are shown."""

import argparse
import os


def expand(text: str) -> str:
    """`text` with the home folder of `~` or `~user` written out; `gs://` paths stay as they are.

    Raises:
      ValueError: there is no such user, or the text cannot be a path.
    """
    if "\0" in text:
        raise ValueError("expected a path, got one with a NUL byte")
    path = os.path.expanduser(text)
    if text.startswith("~") and path == text:
        raise ValueError(f"expected a path, there is no home folder of {text.partition('/')[0]}")
    return path


def flag(text: str) -> str:
    """`expand` for `argparse`: the `type` of every flag that takes a path; its default is no empty text."""
    try:
        if not text:
            raise ValueError("expected a path, got ''")
        return expand(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def shown(path: str | os.PathLike) -> str:
    """The shorter of a path and the same path seen from the current folder."""
    path = os.fspath(path)
    if "://" in path:
        return path
    return min(path, os.path.relpath(path), key=len)
