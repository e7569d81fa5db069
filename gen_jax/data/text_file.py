"""Your own text: a UTF-8 file, or a folder of them, each one document."""

from pathlib import Path
from typing import Literal

from gen_jax.data.base import TokenSource
from gen_jax.data.datasets import TokenSet
from gen_jax.data.documents import token_set
from gen_jax.errors import DataError


class Config(TokenSource):
    """path: a file, or a folder whose files (those that match `pattern`, at any depth) are read in order."""

    source: Literal["text_file"] = "text_file"
    path: str
    pattern: str = "*.txt"


def read(path: Path) -> str:
    """The text, its line ends as they are. Raises DataError where it is not UTF-8."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}, run: iconv -t UTF-8") from None


def load(cfg: Config, seed: int) -> TokenSet:
    """The set, cut into splits: a folder by file, a file by place. `seed` is that of the training order."""
    path = Path(cfg.path).expanduser()
    if not path.exists():
        raise DataError(f"config.data.path: there is no {path}")
    files = sorted(file for file in path.rglob(cfg.pattern) if file.is_file()) if path.is_dir() else [path]
    documents = [text for file in files if (text := read(file))]
    if not documents:
        raise DataError(f"config.data.path: no text in {path} (pattern {cfg.pattern})")
    return token_set({"train": documents}, cfg, seed)
