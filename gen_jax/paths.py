"""Paths as a user writes them: `~` and `~user` are home directories, `gs://` stays as it is."""

import os


def expanded(path: str) -> str:
    """The path with its home directory written out.

    Raises:
      ValueError: it holds a NUL byte, or names a user who has no home here.
    """
    if "\0" in path:
        raise ValueError("expected a path, which holds no NUL byte")
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ValueError(f"expected a path, there is no home directory of {path.partition('/')[0]!r}")
    return found


def shortest(path: str | os.PathLike) -> str:
    """The shorter one of the path and the path from the working directory; `gs://` stays as it is."""
    text = os.fspath(path)
    return text if "://" in text else min(text, os.path.relpath(text), key=len)
