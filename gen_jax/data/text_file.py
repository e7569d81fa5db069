"""Your own text: a UTF-8 file, or a folder of them, each one document."""

from pathlib import Path
from typing import Literal

from gen_jax.data import utf8
from gen_jax.data.base import TokenSource
from gen_jax.data.datasets import TokenSet
from gen_jax.data.documents import token_set
from gen_jax.data.files import Kind, list_folder
from gen_jax.data.records import RecordSet
from gen_jax.errors import DataError
from gen_jax.settings import UserPath


class TextSource(TokenSource):
    """path: a file, or a folder whose files (those that match `pattern`, at any depth) are read in order.

    Folders or files that are named after splits (`data.split_names`) are these splits.
    """

    path: UserPath
    pattern: str = "*.txt"


class Config(TextSource):
    source: Literal["text_file"] = "text_file"


def read(path: Path) -> str:
    """The text, its line ends as they are. Raises DataError where it is not UTF-8."""
    try:
        return utf8.decode(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def files(cfg: TextSource) -> dict[str, list[Path]]:
    """Split -> the files that hold text, in order; what was found in a folder is said on stderr.

    Raises DataError where there are none.
    """
    path = Path(cfg.path).expanduser()
    if path.is_dir():
        listing = list_folder(path, Kind("texts", pattern=cfg.pattern), named="files")
        listing.say()
        found = {split: [file.path for file in files if file.size] for split, files in listing.files.items()}
    elif path.exists():
        found = {"train": [path]}
    else:
        raise DataError(f"config.data.path: there is no {path}")
    if empty := next((split for split, files in found.items() if not files), None):
        raise DataError(f"config.data.path: no text for {empty} in {path} (pattern {cfg.pattern})")
    return found


def load(cfg: TextSource, seed: int) -> TokenSet | RecordSet:
    """The set, cut into splits: a folder by file, a file by place, lines by line. `seed` is of the training order."""
    documents = {split: [text for file in found if (text := read(file))] for split, found in files(cfg).items()}
    if empty := next((split for split, texts in documents.items() if not texts), None):
        raise DataError(f"config.data.path: no text for {empty} in {cfg.path} (pattern {cfg.pattern})")
    return token_set(documents, cfg, seed)
