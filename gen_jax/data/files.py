"""The files of a source: one lister of folders, for all sources, which says what it found and what it left out."""

import dataclasses
import fnmatch
import io
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gen_jax.data import reading
from gen_jax.data.reading import printable
from gen_jax.data.split_names import Name, SplitNames, split_names
from gen_jax.errors import DataError, first_line

# what systems and programs leave in folders; and all that begins with a dot
DROPPINGS = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
HIDDEN, OTHER_KIND, OUTSIDE = "hidden", "of another kind", "outside of the splits"
DANGLING, CYCLE, SPECIAL = "links to nothing", "links to a folder above", "neither file nor folder"
SHOWN = 4  # names in a line


@dataclasses.dataclass(frozen=True)
class Kind:
    """Which files are data, in any letter case.

    Attributes:
      plural: what they are.
      ends: how their names end.
      pattern: or a glob pattern of their last folders and name.
    """

    plural: str
    ends: tuple[str, ...] = ()
    pattern: str = ""

    def __contains__(self, name: str) -> bool:
        if self.ends:
            return name.lower().endswith(self.ends)
        parts, globs = name.lower().split("/"), self.pattern.lower().split("/")
        tail = parts[-len(globs) :]
        return len(tail) == len(globs) and all(map(fnmatch.fnmatchcase, tail, globs))

    def __str__(self) -> str:
        return f"{self.plural} ({', '.join(self.ends) or self.pattern})"


@dataclasses.dataclass(frozen=True)
class File:
    """A file of data.

    Attributes:
      name: below the root, `/` between folders, without the folder that names its split.
      path: where it is; of a member of an archive the path of both, for messages.
      size: bytes, as its folder or archive says.
      place: in an archive; members are read fastest in this order.
      opener: of a member of an archive.
    """

    name: str
    path: Path
    size: int
    place: int = 0
    opener: Callable[[], io.BufferedIOBase] | None = None

    def contents(self) -> bytes:
        """All its bytes. Raises DataError if it cannot be read."""
        if self.opener is None:
            return reading.contents(self.path)
        try:
            with self.opener() as opened:
                return opened.read()
        except Exception as error:  # a damaged archive: zipfile, zlib and tarfile raise many kinds
            raise DataError(f"{self}: cannot be read: {first_line(error) or type(error).__name__}") from None

    @property
    def folder(self) -> str:
        """The first folder of its name; "" where there is none."""
        first, _, rest = self.name.partition("/")
        return first if rest else ""

    def __str__(self) -> str:
        return printable(self.path)


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder or archive holds.

    Attributes:
      root: its path.
      kind: of its files.
      files: split -> its files, sorted; `train` alone where nothing names splits.
      places: split -> what named it: a folder or a file; empty where nothing names splits.
      skipped: why -> the names of what was left out.
    """

    root: Path
    kind: Kind
    files: dict[str, list[File]]
    places: dict[str, str]
    skipped: dict[str, list[str]]

    def line(self, classes: Sequence[str] = ()) -> str:
        """How many files, which splits and classes, what was skipped and why."""
        count = sum(map(len, self.files.values()))
        line = f"data: {printable(self.root)}: {count} {self.kind.plural}"
        if self.places:
            splits = (f"{split} {len(found)} in {self.places[split]}" for split, found in self.files.items())
            line += f" ({', '.join(splits)})"
        if classes:
            line += f", {len(classes)} classes ({some(classes)})"
        return line + _left_out(self.skipped)

    def say(self, classes: Sequence[str] = ()) -> None:
        """The line, on stderr."""
        print(self.line(classes), file=sys.stderr, flush=True)


def is_dropping(name: str) -> bool:
    """Whether a file or folder of this name is no data."""
    return name.startswith((".", "Icon\r")) or name.lower() in DROPPINGS


def list_folder(root: Path, kind: Kind, named: SplitNames = "folders", deep: bool = True) -> Listing:
    """The files of a kind below a folder, links followed.

    Args:
      kind: which files are data.
      named: what may name a split.
      deep: also those in folders below it.

    Raises:
      DataError: there is no such folder, one below it cannot be read, a split has no file, or two folders are the
        same split.
    """
    if not os.path.isdir(root):
        raise DataError(f"config.data.path: there is no folder {printable(root)}")
    found = Found()
    _walk(root, found, deep)
    return found.listing(root, kind, named)


class Found:
    """What a walk comes across, before it is known what is data."""

    def __init__(self) -> None:
        self.files: list[tuple[Name, File]] = []
        self.folders: set[Name] = set()
        self.skipped: dict[str, list[str]] = {}

    def skip(self, why: str, name: Name) -> None:
        self.skipped.setdefault(why, []).append("/".join(map(printable, name)))

    def listing(self, root: Path, kind: Kind, named: SplitNames) -> Listing:
        """The files of a kind, sorted into splits. Errors as `list_folder`."""
        files = []
        for name, file in sorted(self.files, key=lambda one: one[0]):
            if "/".join(name) in kind:
                files.append((name, file))
            else:
                self.skip(OTHER_KIND, name)
        splits = split_names(printable(root), self.folders, [name for name, _ in files], named)
        sorted_out: dict[str, list[File]] = {split: [] for split in splits.places or ("train",)}
        for name, file in files:
            split, rest = splits.of(name)
            if split is None:
                self.skip(OUTSIDE, name)
            else:
                sorted_out[split].append(dataclasses.replace(file, name="/".join(map(printable, rest))))
        empty = next((split for split, found in sorted_out.items() if not found), None)
        if empty:
            place = splits.places.get(empty, "")
            raise DataError(f"config.data.path: no {kind} in {printable(root / place)}{_left_out(self.skipped)}")
        return Listing(root, kind, sorted_out, splits.places, self.skipped)


def _walk(root: Path, found: Found, deep: bool) -> None:
    """Adds all that is below `root` to `found`."""
    waiting: list[tuple[Name, str, frozenset]] = [((), os.fspath(root), frozenset([_identity(os.stat(root))]))]
    while waiting:
        above, folder, inside = waiting.pop()
        for entry in _entries(folder):
            name = (*above, entry.name)
            if is_dropping(entry.name):
                found.skip(HIDDEN, name)
                continue
            try:
                status = entry.stat()  # of what a link leads to
            except OSError:
                found.skip(DANGLING, name)
                continue
            if stat.S_ISREG(status.st_mode):
                found.files.append((name, File("", Path(entry.path), status.st_size)))
            elif not stat.S_ISDIR(status.st_mode):
                found.skip(SPECIAL, name)
            elif _identity(status) in inside:
                found.skip(CYCLE, name)
            elif deep:
                found.folders.add(name)
                waiting.append((name, entry.path, inside | {_identity(status)}))


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"config.data.path: {printable(folder)}: {error.strerror}") from None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _left_out(skipped: dict[str, list[str]]) -> str:
    left = [f"{len(names)} {why} ({some(sorted(names))})" for why, names in sorted(skipped.items())]
    return f"; skipped: {', '.join(left)}" if left else ""


def some(names: Sequence[str]) -> str:
    """The first of them, in a line."""
    return ", ".join([*names[:SHOWN], *["..."] * (len(names) > SHOWN)])
