"""Archives of files, read without being unpacked: what `data.files` lists of a folder, of a .zip or .tar."""

import contextlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from gen_jax.data.bounds import check_expansion
from gen_jax.data.files import DANGLING, HIDDEN, SPECIAL, File, Found, Kind, Listing, is_dropping, shown
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
      DataError: it is damaged or far larger than its file; or as `list_folder`. So do reads in the body of `with`.
    """
    try:
        with _zip(path) if path.name.lower().endswith(".zip") else _tar(path) as found:
            yield found.listing(path, kind, named)
    except (
        *(OSError, EOFError, RuntimeError, NotImplementedError, ValueError, KeyError),  # zipfile's own are many
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise DataError(f"{shown(path)}: cannot be read: {first_line(error) or type(error).__name__}") from None


@contextlib.contextmanager
def _zip(path: Path) -> Iterator[Found]:
    found = Found()
    with zipfile.ZipFile(path) as archive:
        check_expansion(shown(path), path.stat().st_size, sum(one.file_size for one in archive.infolist()))
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
    found, size, total, members = Found(), path.stat().st_size, 0, {}
    with tarfile.open(path) as archive:
        for one in archive:
            total += one.size
            check_expansion(shown(path), size, total)  # before the next header is looked for behind this member
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
        dropped = "/".join(map(shown, parts[:hidden]))
        if dropped not in found.skipped.setdefault(HIDDEN, []):
            found.skipped[HIDDEN].append(dropped)
        return ()
    found.folders |= {parts[:end] for end in range(1, len(parts))}
    return parts
