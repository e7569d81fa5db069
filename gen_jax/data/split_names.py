"""Which folders and files are named after splits: `train` beside `val`, `valid`, `validation`, `dev`, `test`."""

import dataclasses
import re
from collections.abc import Collection, Sequence
from typing import Literal

from gen_jax.data.source import SPLITS
from gen_jax.errors import DataError

ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
SPLIT_OF = {alias: split for split, aliases in ALIASES.items() for alias in aliases}

Name = tuple[str, ...]  # of a file or folder: its folders and its own
SplitNames = Literal["nothing", "folders", "files"]  # what may name a split; "files": folders, else files


@dataclasses.dataclass(frozen=True)
class Splits:
    """Attributes:
    folders, files: those that name a split -> the split.
    places: split -> the name of one of them.
    """

    folders: dict[Name, str]
    files: dict[Name, str]
    places: dict[str, str]

    def of(self, name: Name) -> tuple[str | None, Name]:
        """The split of a file, None where others have one; and its name without the folder of the split."""
        for end in range(1, len(name)):
            if name[:end] in self.folders:
                return self.folders[name[:end]], (*name[: end - 1], *name[end:])
        return self.files.get(name, None if self.places else "train"), name


def split_names(root: str, folders: Collection[Name], files: Sequence[Name], named: SplitNames) -> Splits:
    """What names the splits of a folder or archive `root`.

    A folder `train` is a split beside another one; at the top also where nothing lies beside it, or where its own files
    all lie in folders, as those of classes do. So a class may be called train.

    Raises:
      DataError: two folders name the same split, or others are there without train.
    """
    if named == "nothing":
        return Splits({}, {}, {})
    by_folder = _folders(root, folders, files)
    by_file = _files(files) if named == "files" and not by_folder else {}
    places = {split: "/".join(name) for name, split in reversed([*by_folder.items(), *by_file.items()])}
    return Splits(by_folder, by_file, {split: places[split] for split in SPLITS if split in places})


def _folders(root: str, folders: Collection[Name], files: Sequence[Name]) -> dict[Name, str]:
    beside: dict[Name, list[Name]] = {}
    for folder in sorted(folders):
        if folder[-1].lower() in SPLIT_OF:
            beside.setdefault(folder[:-1], []).append(folder)
    found: dict[Name, str] = {}
    for parent, candidates in beside.items():
        splits = [SPLIT_OF[folder[-1].lower()] for folder in candidates]
        if "train" not in splits:
            if not parent and {file[:1] for file in files} <= set(candidates) and len(splits) > 1:
                names = " and ".join(folder[-1] for folder in candidates)
                raise DataError(f"config.data.path: {root} has {names}, expected train beside them")
        elif set(splits) != {"train"} or (not parent and _is_split_alone(candidates[0], files)):
            if twice := next((split for split in splits if splits.count(split) > 1), None):
                names = " and ".join(
                    "/".join(folder) for folder, split in zip(candidates, splits, strict=True) if split == twice
                )
                raise DataError(f"config.data.path: {root} has {names}, expected one folder for {twice}")
            found |= zip(candidates, splits, strict=True)
    return found


def _is_split_alone(train: Name, files: Sequence[Name]) -> bool:
    inside = [file for file in files if file[:1] == train]
    return len(inside) == len(files) or all(len(file) > 2 for file in inside)


def _files(files: Sequence[Name]) -> dict[Name, str]:
    """`train.txt` beside `valid.txt`; or `tiny-train.txt` beside `tiny-valid.txt` and nothing else."""
    exact = {file: SPLIT_OF.get(file[-1].lower().partition(".")[0]) for file in files}
    found = {file: split for file, split in exact.items() if split}
    if {"train"} < set(found.values()):
        return found
    parts = [[SPLIT_OF[word] for word in re.split(r"[._-]", file[-1].lower()) if word in SPLIT_OF] for file in files]
    if all(len(splits) == 1 for splits in parts) and {"train"} < {splits[0] for splits in parts}:
        return {file: splits[0] for file, splits in zip(files, parts, strict=True)}
    return {}
