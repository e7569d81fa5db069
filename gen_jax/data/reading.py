"""Files that a user names, opened in one way: no pipe is waited for, no device read without end, no bomb unpacked."""

import gzip
import io
import os
import stat
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import psutil

from gen_jax.data.bounds import check_expansion, is_bounded
from gen_jax.errors import DataError, first_line
from gen_jax.io import json_text

CHUNK = 2**20  # bytes that are unpacked at once
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def printable(name: str | os.PathLike) -> str:
    """A name on one line, whatever bytes it has; its accents are composed, as most systems write them."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    text = unicodedata.normalize("NFC", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size_of(path: Path) -> int:
    """The bytes of a file. Raises DataError if there is none, or something else of that name."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{printable(path)}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{printable(path)}: expected a file, found {KINDS.get(stat.S_IFMT(status.st_mode), 'none')}")
    return status.st_size


def opened(path: Path) -> io.BufferedReader:
    """The file, read as bytes. Raises DataError as `size_of`, and where it may not be read."""
    size_of(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{printable(path)}: {error.strerror}") from None


def contents(path: Path) -> bytes:
    """All bytes of a file. Raises DataError as `opened`, and where the memory that is free does not hold them."""
    size, free = size_of(path), psutil.virtual_memory().available
    if is_bounded() and size > free:
        raise DataError(f"{printable(path)}: a file of {size:,} bytes, but only {free:,} bytes of memory are free")
    with opened(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise DataError(f"{printable(path)}: {error.strerror}") from None


def unpacked(path: Path) -> bytes:
    """The contents of a .gz file. Raises DataError as `contents`, and where it is damaged or a bomb."""
    size, parts, total = size_of(path), [], 0
    try:
        with opened(path) as file, gzip.GzipFile(fileobj=file) as inside:
            while part := inside.read(CHUNK):
                total += len(part)
                check_expansion(printable(path), size, total)
                parts.append(part)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{printable(path)}: not readable as gzip: {first_line(error)}") from None
    return b"".join(parts)


def json_of(path: Path) -> Any:
    """What a JSON file holds. Raises DataError as `contents`, and where it is none."""
    content = contents(path)
    try:
        return json_text.loads(content)
    except ValueError as error:
        raise DataError(f"{printable(path)}: not readable as JSON: {first_line(error)}") from None
