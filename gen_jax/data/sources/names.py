"""Names, one a record: your own list, one a line, or the functions and classes of Python's standard library."""

import re
import sysconfig
from pathlib import Path
from typing import Literal

from gen_jax.data.datasets import TokenSet
from gen_jax.data.documents import token_set
from gen_jax.data.records import RecordSet
from gen_jax.data.sources import text_file
from gen_jax.data.sources.pydoc import library_files
from gen_jax.errors import DataError
from gen_jax.settings import UserPath

DEFINED = re.compile(rb"^\s*(?:class|(?:async )?def) (\w+)", re.MULTILINE)
LONGEST = 30  # characters of an embedded name


class Config(text_file.TextSource):
    """A list of names, each a record."""

    source: Literal["names"] = "names"
    path: UserPath = ""
    """Path as for `text_file`; "" = the embedded names, which differ between versions of Python."""
    order: Literal["permuted"] = "permuted"
    """Always a new permutation each epoch."""
    documents: Literal["lines"] = "lines"
    """Always a record a line."""


def load(cfg: Config, seed: int) -> TokenSet | RecordSet:
    """The set, cut into splits by name. `seed` is that of the training order. Raises DataError if there is none."""
    return text_file.load(cfg, seed) if cfg.path else token_set({"train": ["\n".join(embedded())]}, cfg, seed)


def embedded() -> list[str]:
    """Each name once, in the order of the alphabet; about 10,000, at most LONGEST characters each."""
    root = Path(sysconfig.get_path("stdlib"))
    found = {name.decode() for file in library_files(root) for name in DEFINED.findall(file.read_bytes())}
    if not found:
        raise DataError(f"names: {root} holds no sources of the standard library, set config.data.path")
    return sorted(name for name in found if len(name) <= LONGEST)
