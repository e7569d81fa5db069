"""Your own pairs of texts: parallel files, one sentence a line, plain or .gz."""

import gzip
import zlib
from pathlib import Path
from typing import Literal

import pydantic

from gen_jax.data import utf8
from gen_jax.data.base import SPLITS, cut
from gen_jax.data.pair_sets import PairSet, PairSource, Texts, pair_set
from gen_jax.errors import DataError
from gen_jax.settings import UserPath


class Config(PairSource):
    """path: the folder. pattern: a file's name, of `{split}` and `{language}`.

    train_name, validation_name, test_name: what `{split}` is. Where a split has no files (or no name), it is cut off
    the training pairs.
    """

    source: Literal["pairs"] = "pairs"
    path: UserPath
    source_language: str = "en"
    target_language: str = "de"
    pattern: str = "{split}.{language}.gz"
    train_name: str = "train"
    validation_name: str = "val"
    test_name: str = "test"

    @pydantic.model_validator(mode="after")
    def _names_both(self) -> "Config":
        rest = self.pattern.replace("{split}", "", 1).replace("{language}", "", 1)
        if len(rest) + len("{split}{language}") != len(self.pattern) or "{" in rest or "}" in rest:
            raise ValueError(f"pattern: expected {{split}} and {{language}} in it, got {self.pattern!r}")
        return self


def read_lines(path: Path) -> list[str]:
    """The lines without what ends them. Raises DataError where the file is missing, damaged or not UTF-8."""
    try:
        content = path.read_bytes()
        text = utf8.decode(gzip.decompress(content) if path.suffix == ".gz" else content, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def file_name(cfg: Config, split: str, language: str) -> str:
    return cfg.pattern.replace("{split}", split).replace("{language}", language)


def read_pairs(folder: Path, cfg: Config, name: str) -> Texts | None:
    """A split, or None where neither file is there. Raises DataError where the files do not fit each other."""
    names = [file_name(cfg, name, language) for language in (cfg.source_language, cfg.target_language)]
    files = [folder / one for one in names]
    if not any(file.exists() for file in files):
        return None
    sources, targets = map(read_lines, files)
    if len(sources) != len(targets):
        raise DataError(f"{folder}: {names[0]} has {len(sources)} lines and {names[1]} {len(targets)}, not the same")
    return sources, targets


def load(cfg: Config, seed: int) -> PairSet:
    """The set; `seed` is that of the training order. Training pairs with an empty side are left out."""
    folder = Path(cfg.path).expanduser()
    if not cfg.path or not folder.is_dir():
        raise DataError(f"config.data.path: there is no folder {cfg.path!r}; expected one with {cfg.pattern}")
    names = {"train": cfg.train_name, "validation": cfg.validation_name, "test": cfg.test_name}
    read = {split: read_pairs(folder, cfg, name) for split, name in names.items() if name}
    found = {split: texts for split, texts in read.items() if texts is not None}
    if "train" not in found:
        first = file_name(cfg, cfg.train_name, cfg.source_language)
        raise DataError(f"config.data.path: there is no {first} in {folder}")
    return pair_set(with_cuts(found, cfg), cfg, seed)


def with_cuts(found: dict[str, Texts], source: PairSource) -> dict[str, Texts]:
    """Adds the splits that `found` lacks, cut off its `train` by `split_seed`."""
    pairs = [(one, other) for one, other in zip(*found["train"], strict=True) if one.strip() and other.strip()]
    parts = cut(len(pairs), source, tuple(split for split in ("validation", "test") if split not in found))
    cuts = {split: ([pairs[i][0] for i in index], [pairs[i][1] for i in index]) for split, index in parts.items()}
    return {
        split: cuts[split] if split in cuts else found[split] for split in SPLITS if split in cuts or split in found
    }
