"""Your own pairs of texts: parallel files, one sentence a line, plain or .gz."""

import sys
from pathlib import Path
from typing import Literal

import pydantic

from gen_jax.data import reading, utf8
from gen_jax.data.files import Kind, list_folder, some
from gen_jax.data.pair_sets import PairSet, PairSource, Texts, pair_set
from gen_jax.data.reading import printable
from gen_jax.data.source import SPLITS, cut
from gen_jax.data.split_names import ALIASES, SPLIT_OF
from gen_jax.errors import DataError
from gen_jax.settings import NeededPath


class Config(PairSource):
    """Pairs of lines in two files of a folder.

    Where no file has the name of a split, and that is a usual name, any other of these is read (`data.split_names`), in
    any letter case. A split without files, or with an empty name, is cut off the training pairs.
    """

    source: Literal["pairs"] = "pairs"
    path: NeededPath
    """The folder."""
    source_language: str = "en"
    """Value of `{language}` in the sources' names."""
    target_language: str = "de"
    """Value of `{language}` in the targets' names."""
    pattern: str = "{split}.{language}.gz"
    """A file's name, of `{split}` and `{language}`."""
    train_name: str = "train"
    """Value of `{split}` for training."""
    validation_name: str = "val"
    """Value of `{split}` for validation."""
    test_name: str = "test"
    """Value of `{split}` for the test."""

    @pydantic.model_validator(mode="after")
    def _names_both(self) -> "Config":
        rest = self.pattern.replace("{split}", "", 1).replace("{language}", "", 1)
        if len(rest) + len("{split}{language}") != len(self.pattern) or "{" in rest or "}" in rest:
            raise ValueError(f"pattern: expected {{split}} and {{language}} in it, got {self.pattern!r}")
        return self


def read_lines(path: Path) -> list[str]:
    """The lines without what ends them. Raises DataError if the file is missing, damaged or not UTF-8."""
    read = reading.unpacked if path.suffix.lower() == ".gz" else reading.contents
    text = utf8.decode(read(path), printable(path))
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def file_name(cfg: Config, split: str, language: str) -> str:
    return cfg.pattern.replace("{split}", split).replace("{language}", language)


def find(folder: Path, cfg: Config) -> dict[str, tuple[Path, Path]]:
    """Split -> its files of sources and of targets; says on stderr which are read and which are left out.

    Raises DataError if there are none to train on, or a split has several or only one of the two.
    """
    anything = cfg.pattern.replace("[", "[[]").replace("{split}", "*").replace("{language}", "*")
    listing = list_folder(folder, Kind("pairs", pattern=anything), named="nothing", deep="/" in cfg.pattern)
    files = {file.path.relative_to(folder).as_posix(): file.path for file in listing.files["train"]}
    names = {"train": cfg.train_name, "validation": cfg.validation_name, "test": cfg.test_name}
    found = {
        split: pair for split, name in names.items() if name and (pair := _pair_of(split, name, folder, files, cfg))
    }
    if "train" not in found:
        first = file_name(cfg, cfg.train_name, cfg.source_language)
        raise DataError(f"config.data.path: there is no {first} in {printable(folder)}")
    used = {path for pair in found.values() for path in pair}
    left = [printable(name) for name, path in files.items() if path not in used]
    splits = ", ".join(f"{split} in {' and '.join(printable(p.name) for p in pair)}" for split, pair in found.items())
    more = f"; skipped: {len(left)} of other names ({some(left)})" if left else ""
    print(f"data: {printable(folder)}: pairs ({splits}){more}", file=sys.stderr, flush=True)
    return found


def _pair_of(split: str, name: str, folder: Path, files: dict[str, Path], cfg: Config) -> tuple[Path, Path] | None:
    """The two files of a split, of its `name`; else of any of its names (`data.split_names`), in any letter case."""
    languages = (cfg.source_language, cfg.target_language)
    exact = [file_name(cfg, name, language) for language in languages]
    is_usual = SPLIT_OF.get(name.lower()) == split and not set(exact) & files.keys()
    aliases = ALIASES[split] if is_usual else (name,)
    sides = []
    for one, language in zip(exact, languages, strict=True):
        wanted = {file_name(cfg, alias, language).lower() for alias in aliases}
        sides.append([one] if one in files else [other for other in files if other.lower() in wanted])
    here = sorted(printable(one) for side in sides for one in side)
    if not here:
        return None
    if any(len(side) > 1 for side in sides):
        raise DataError(
            f"config.data.path: {printable(folder)} has {' and '.join(here)}, expected one of each language for "
            f"{split}; config.data.{split}_name picks them"
        )
    if [] in sides:
        lost = sides.index([])
        raise DataError(
            f"config.data.path: {printable(folder)} has {here[0]}, expected one of {languages[lost]} beside it, "
            f"{exact[lost]}"
        )
    source, target = (files[side[0]] for side in sides)
    return source, target


def load(cfg: Config, seed: int) -> PairSet:
    """The set; `seed` is that of the training order. Training pairs with an empty side are left out.

    Raises DataError as `find`, and where two files have not the same number of lines.
    """
    folder = Path(cfg.path).expanduser()
    if not cfg.path or not folder.is_dir():
        raise DataError(f"config.data.path: there is no folder {cfg.path!r}; expected one with {cfg.pattern}")
    found = {}
    for split, pair in find(folder, cfg).items():
        sources, targets = map(read_lines, pair)
        if len(sources) != len(targets):
            here, there = (printable(path.name) for path in pair)
            raise DataError(
                f"{printable(folder)}: {here} has {len(sources)} lines and {there} {len(targets)}, not the same"
            )
        found[split] = sources, targets
    return pair_set(with_cuts(found, cfg), cfg, seed)


def with_cuts(found: dict[str, Texts], source: PairSource) -> dict[str, Texts]:
    """Adds the splits that `found` lacks, cut off its `train` by `split_seed`."""
    pairs = [(one, other) for one, other in zip(*found["train"], strict=True) if one.strip() and other.strip()]
    parts = cut(len(pairs), source, tuple(split for split in ("validation", "test") if split not in found))
    cuts = {split: ([pairs[i][0] for i in index], [pairs[i][1] for i in index]) for split, index in parts.items()}
    return {
        split: cuts[split] if split in cuts else found[split] for split in SPLITS if split in cuts or split in found
    }
