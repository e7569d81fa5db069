"""Archives of files, read without being unpacked: what `data.files` lists of a folder, of a .zip or .tar."""

import contextlib
import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from gen_jax.data import reading
from gen_jax.data.bounds import check_expansion, check_members
from gen_jax.data.files import DANGLING, HIDDEN, SPECIAL, File, Found, Kind, Listing, is_dropping
from gen_jax.data.reading import printable
from gen_jax.data.split_names import Name, SplitNames
from gen_jax.errors import DataError, first_line

ENDS = (".tar", ".tar.gz", ".tgz", ".zip")


def is_archive(path: Path) -> bool:
    """Whether this is a file that `opened` reads, by its name."""
    return path.name.lower().endswith(ENDS) and path.is_file()


@contextlib.contextmanager
def opened(path: Path, kind: Kind, named: SplitNames = "folders") -> Iterator[Listing]:
    """The files of a kind in an archive, which can be read while this lasts.

    Raises:
      DataError: it is damaged or far larger than its file; or as `list_folder`.
    """
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(_zip(path) if path.name.lower().endswith(".zip") else _tar(path))
        except DataError:
            raise
        except Exception as error:  # a damaged file: zipfile, zlib and tarfile raise many kinds
            raise DataError(f"{printable(path)}: cannot be read: {first_line(error) or type(error).__name__}") from None
        yield found.listing(path, kind, named)


@contextlib.contextmanager
def _zip(path: Path) -> Iterator[Found]:
    found = Found()
    with zipfile.ZipFile(path) as archive:
        check_expansion(printable(path), path.stat().st_size, sum(one.file_size for one in archive.infolist()))
        for one in archive.infolist():
            name = one.filename if "/" in one.filename else one.filename.replace("\\", "/")  # packed on Windows
            if not one.is_dir() and (parts := _kept(found, name)):
                file = File(
                    "", path / name, one.file_size, one.header_offset, lambda one=one: cast(Any, archive.open(one))
                )
                found.files.append((parts, file))
        yield found


@contextlib.contextmanager
def _tar(path: Path) -> Iterator[Found]:
    found, members, total = Found(), {}, 0
    with _unpacked(path) as file, tarfile.open(fileobj=cast(Any, file), mode="r:") as archive:
        for count, one in enumerate(archive, 1):
            check_members(printable(path), file.packed, count)
            file.check(one.size)
            total += one.size
            check_expansion(printable(path), file.packed, total)  # a sparse member is larger than what lies in the file
            members[os.path.normpath(one.name)] = one
        for one in members.values():
            if one.isdir() or not (parts := _kept(found, one.name)):
                continue
            target = _target(members, one)
            if target is None:
                found.skip(DANGLING if one.issym() or one.islnk() else SPECIAL, parts)
            else:
                opener = lambda target=target: cast(Any, archive.extractfile(target))  # noqa: E731
                found.files.append((parts, File("", path / one.name, target.size, target.offset_data, opener)))
        yield found


class Bounded:
    """The bytes of a tar, perhaps unpacked. What its headers ask for is refused where `check_expansion` does.

    Attributes:
      packed: bytes of the file itself.
    """

    def __init__(self, file: io.BufferedIOBase, path: Path):
        self.file, self.name, self.packed = file, printable(path), os.stat(path).st_size

    def read(self, size: int) -> bytes:
        self.check(size)
        check_expansion(self.name, self.packed, self.file.tell() + size)
        return self.file.read(size)

    def seek(self, place: int) -> int:
        self.check(place)
        check_expansion(self.name, self.packed, place)
        return self.file.seek(place)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True

    def check(self, size: int) -> None:
        """Raises ValueError if a header says a size below 0, which leads back to what was read."""
        if size < 0:
            raise ValueError("a header says a negative size")


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Bounded]:
    """The file, through gzip where it begins as such a file does."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(reading.opened(path))
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield Bounded(stack.enter_context(gzip.GzipFile(fileobj=file)) if is_packed else file, path)


def _target(members: dict[str, tarfile.TarInfo], one: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The file that a member is, or that links lead to; None where there is none."""
    for _ in range(40):  # as many links as Linux follows
        if one.isreg():
            return one
        beside = os.path.dirname(one.name) if one.issym() else ""
        target = members.get(os.path.normpath(os.path.join(beside, one.linkname)))
        if target is None or not (one.issym() or one.islnk()):
            return None
        one = target
    return None


def _kept(found: Found, name: str) -> Name:
    """The parts of a member's name; () where it is no data. Its folders are added to `found`."""
    parts = tuple(part for part in PurePosixPath(name).parts if part != "/")
    hidden = next((end for end, part in enumerate(parts, 1) if is_dropping(part)), None)
    if hidden or not parts:
        dropped = "/".join(map(printable, parts[:hidden]))
        if dropped not in found.skipped.setdefault(HIDDEN, []):
            found.skipped[HIDDEN].append(dropped)
        return ()
    found.folders |= {parts[:end] for end in range(1, len(parts))}
    return parts
