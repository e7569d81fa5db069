"""Writes to disks that may be full, read-only or gone: whole files or nothing, and errors of one line.

An error names the path, the bytes needed and the bytes free. It is raised where the file is written.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from etils import epath

from gen_jax.errors import StorageError, kind_and_line

FULL = (errno.ENOSPC, errno.EDQUOT)


def is_remote(path: epath.PathLike) -> bool:
    return "://" in os.fspath(path)


def write_atomic(path: epath.Path, data: str | bytes) -> None:
    """Writes a whole file or nothing: the earlier file survives a kill and a full disk.

    Raises:
      StorageError: it cannot be written.
    """
    data = data.encode() if isinstance(data, str) else data
    if is_remote(path):  # an object is never half written
        path.write_bytes(data)
        return
    temporary = path.parent / f".{path.name}.tmp"
    with writing(path, len(data)):
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writing(path: epath.PathLike, size: int = 0) -> Iterator[None]:
    """Turns an OSError into a StorageError.

    Args:
      path: the file being written.
      size: bytes that it needs.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(reason(error, path, size)) from error


@contextlib.contextmanager
def reading(path: epath.PathLike) -> Iterator[None]:
    """Turns an OSError into a StorageError, as for a folder in place of a file or the reverse."""
    try:
        yield
    except OSError as error:
        raise unreadable(error, path) from error


def unreadable(error: OSError, path: epath.PathLike) -> StorageError:
    return StorageError(f"{os.fspath(path)}: cannot be read: {error.strerror or kind_and_line(error)}")


def reason(error: BaseException, path: epath.PathLike, size: int = 0) -> str:
    """The reason, on one line, why `path`, which needs `size` bytes, was not written."""
    if number := full(error):
        needed = f"{size:,} bytes needed, " if size else ""
        return f"{os.fspath(path)}: {os.strerror(number)}: {needed}{_room(path)}; the same command continues after that"
    words = error.strerror if isinstance(error, OSError) and error.strerror else kind_and_line(error)
    return f"{os.fspath(path)}: cannot be written: {words}"


def full(error: BaseException | None) -> int:
    """The errno of a full disk or a quota if that is the cause, else 0. C++ libraries give it as text only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error.errno
        if found := [number for number in FULL if os.strerror(number) in str(error)]:
            return found[0]
        error = error.__cause__ or error.__context__
    return 0


def _room(path: epath.PathLike) -> str:
    folder = os.path.abspath(os.fspath(path))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    try:
        found = os.statvfs(folder)
    except OSError:
        return "make room"
    inodes = "" if found.f_favail or not found.f_files else " and no inodes"
    return f"{found.f_bavail * found.f_frsize:,} free{inodes}; make room"
