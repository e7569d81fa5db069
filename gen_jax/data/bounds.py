"""Bounds on what a small file may become in memory: a few kilobytes can claim to hold petabytes.

`GEN_JAX_UNBOUNDED=1` in the environment lifts them.
"""

import os

from gen_jax.errors import DataError

EXPANSION, FLOOR = 100, 2**28  # bytes for each byte of the file, and what no file is refused for
PIXELS = 200_000_000  # of one picture
MEMBERS, MEMBER = 2**18, 32  # no archive is refused for MEMBERS or fewer; bytes of the file for each of more


def is_bounded() -> bool:
    """Whether bounds hold."""
    return os.environ.get("GEN_JAX_UNBOUNDED", "") in ("", "0")


def check_expansion(name: str, packed: int, unpacked: int) -> None:
    """Raises DataError if a file of `packed` bytes says that it holds more than EXPANSION times as many."""
    if is_bounded() and unpacked > max(FLOOR, EXPANSION * packed):
        raise DataError(
            f"{name}: a file of {packed:,} bytes that unpacks to {unpacked:,}, more than {EXPANSION} times as many; "
            "set GEN_JAX_UNBOUNDED=1 to read it anyway"
        )


def check_members(name: str, packed: int, count: int) -> None:
    """Raises DataError if an archive of `packed` bytes has too many members: each takes memory, however small."""
    if is_bounded() and count > max(MEMBERS, packed // MEMBER):
        raise DataError(
            f"{name}: a file of {packed:,} bytes with more than {count - 1:,} members; "
            "set GEN_JAX_UNBOUNDED=1 to read it anyway"
        )


def check_pixels(name: str, width: int, height: int) -> None:
    """Raises DataError if a picture has more than PIXELS."""
    if is_bounded() and width * height > PIXELS:
        raise DataError(
            f"{name}: {width} x {height} pixels, more than {PIXELS:,}; set GEN_JAX_UNBOUNDED=1 to read it anyway"
        )
