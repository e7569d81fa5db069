"""Your own pictures: a folder with one sub-folder a class, or with pictures and no classes."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from gen_jax.data.base import SPLITS, ExampleSource, Info
from gen_jax.data.datasets import ExampleSet
from gen_jax.errors import DataError
from gen_jax.settings import Positive

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


class Config(ExampleSource):
    """A folder of pictures of any size.

    path: holds the classes' folders; or `train`, `validation` and `test`, which hold them.
    size: pixels a side; the centre square of each picture is resized to it.
    channels: 1 = grey, 3 = RGB.
    resident_mb: sets above it are streamed from disk, those below are kept on the device.
    """

    source: Literal["image_folder"] = "image_folder"
    path: str
    size: Positive = 32
    channels: Literal[1, 3] = 3
    resident_mb: Positive = 1024


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures below one folder, sorted by path."""

    files: list[Path]
    labels: list[int] | None
    size: int
    channels: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from gen_jax.data import pixels

        example: dict[str, Any] = {"image": pixels.read(self.files[index], self.size, self.channels)}
        return example if self.labels is None else example | {"label": self.labels[index]}


def load(cfg: Config, seed: int) -> ExampleSet:
    """The set, with the missing splits cut; `seed` is that of the training order.

    Raises DataError where there is no picture, a file is none, or splits differ in their classes.
    """
    from gen_jax.data import pictures

    root = Path(cfg.path).expanduser()
    if not root.is_dir():
        raise DataError(f"config.data.path: there is no folder {root}")
    folders = {split: root / split for split in SPLITS if (root / split).is_dir()}
    if "train" not in folders:
        folders = {"train": root}
    files = {split: _pictures(folder) for split, folder in folders.items()}
    empty = [folders[split] for split, found in files.items() if not found]
    if empty:
        raise DataError(f"config.data.path: no pictures in {empty[0]} ({', '.join(sorted(SUFFIXES))})")
    classes = tuple(
        sorted({name for split in files for file in files[split] if (name := _class(file, folders[split]))})
    )
    found = {split: _labelled(cfg, files[split], folders[split], classes) for split in files}
    info = Info("image", (cfg.size, cfg.size, cfg.channels), len(classes), classes)
    size_mb = sum(map(len, found.values())) * cfg.size**2 * cfg.channels / 2**20
    if size_mb > cfg.resident_mb:
        return pictures.streamed_set(info, found, cfg, seed)
    with ThreadPoolExecutor(pictures.READERS) as pool:
        arrays = {s: pictures.stack(list(pool.map(p.__getitem__, range(len(p))))) for s, p in found.items()}
    return pictures.resident_set(info, arrays, cfg, seed)


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _class(file: Path, folder: Path) -> str | None:
    parts = file.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else None


def _labelled(cfg: Config, files: list[Path], folder: Path, classes: tuple[str, ...]) -> Pictures:
    if not classes:
        return Pictures(files, None, cfg.size, cfg.channels)
    names = [_class(file, folder) for file in files]
    if None in names:
        raise DataError(
            f"{files[names.index(None)]}: expected pictures in sub-folders only, one a class, or none at all"
        )
    return Pictures(files, [classes.index(str(name)) for name in names], cfg.size, cfg.channels)
