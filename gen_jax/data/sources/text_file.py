"""Your own text: a UTF-8 file, or a folder of them, each one document."""

import os
from codecs import BOM_UTF8
from pathlib import Path
from typing import Literal

from gen_jax.data import reading, utf8
from gen_jax.data.datasets import TokenSet
from gen_jax.data.documents import token_set
from gen_jax.data.files import Kind, list_folder
from gen_jax.data.records import RecordSet
from gen_jax.data.source import TokenSource
from gen_jax.errors import DataError
from gen_jax.settings import NeededPath


class TextSource(TokenSource):
    """Folders or files that are named after splits (`data.split_names`) are these splits."""

    path: NeededPath
    """A file, or a folder whose files (those that match `pattern`, at any depth) are read in order."""
    pattern: str = "*.txt"
    """Glob pattern for the names of a folder's files."""


class Config(TextSource):
    source: Literal["text_file"] = "text_file"


def read(path: Path) -> str:
    """The text, its line ends as they are. Raises DataError if it cannot be read or is not UTF-8."""
    return utf8.decode(reading.contents(path), path)


def files(cfg: TextSource) -> dict[str, list[Path]]:
    """Split -> the files that hold text, in order; what was found in a folder is said on stderr.

    Raises DataError if there are none.
    """
    path = Path(cfg.path).expanduser()
    if path.is_dir():
        listing = list_folder(path, Kind("texts", pattern=cfg.pattern), named="files")
        listing.say()
        every = {split: [file.path for file in files] for split, files in listing.files.items()}
    elif os.path.lexists(path):
        every = {"train": [path]}
    else:
        raise DataError(f"config.data.path: there is no {path}")
    found = {split: [path for path in files if _holds_text(path)] for split, files in every.items()}
    if empty := next((split for split, files in found.items() if not files), None):
        raise DataError(f"config.data.path: no text for {empty} in {path} (pattern {cfg.pattern})")
    return found


def _holds_text(path: Path) -> bool:
    """Whether a file holds more than a byte order mark."""
    size = reading.size_of(path)
    return size > len(BOM_UTF8) or (size > 0 and reading.contents(path) != BOM_UTF8)


def load(cfg: TextSource, seed: int) -> TokenSet | RecordSet:
    """The set, cut into splits: a folder by file, a file by place, lines by line. `seed` is of the training order."""
    return token_set({split: list(map(read, found)) for split, found in files(cfg).items()}, cfg, seed)
