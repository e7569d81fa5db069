"""Your own pictures: a folder with one sub-folder a class, or with pictures and no classes."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gen_jax.data.datasets import ExampleSet
from gen_jax.data.files import File, Kind, list_folder
from gen_jax.data.fingerprint import marks
from gen_jax.data.source import ExampleSource, Info
from gen_jax.errors import DataError
from gen_jax.settings import NeededPath, Positive, Whole

KIND = Kind(
    "pictures",
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)

TIFF = (".tif", ".tiff")  # of these alone the values may have any range
Level = Annotated[Whole, Field(ge=0, le=255)]
Side = Annotated[Whole, Field(gt=0, le=2**14)]


class Config(ExampleSource):
    """A folder of pictures of any size."""

    source: Literal["image_folder"] = "image_folder"
    path: NeededPath
    """Holds the classes' folders, or folders of splits, which hold them (`data.split_names`)."""
    size: Side = 32
    """Pixels a side; the centre square of each picture is resized to it."""
    channels: Literal[1, 3] = 3
    """1 = grey, 3 = RGB."""
    background: Level = 255
    """The grey level under transparent pixels."""
    resident_mb: Positive = 1024
    """Larger sets are streamed from disk, smaller ones are kept on the device."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of one split, sorted by path."""

    files: list[File]
    labels: list[int] | None
    size: int
    channels: int
    background: int
    white: int | None = None  # as in `pixels.levels`

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from gen_jax.data import pixels

        example: dict[str, Any] = {
            "image": pixels.read(self.files[index].path, self.size, self.channels, self.background, self.white)
        }
        return example if self.labels is None else example | {"label": self.labels[index]}


def load(cfg: Config, seed: int) -> ExampleSet:
    """The set, with the missing splits cut; `seed` is that of the training order.

    Raises DataError if there is no picture, a file is none, or only some lie in folders of classes.
    """
    from gen_jax.data import image_files, pixels

    listing = list_folder(Path(cfg.path).expanduser(), KIND)
    classes = tuple(sorted({file.folder for files in listing.files.values() for file in files} - {""}))
    found = {split: _labelled(cfg, files, classes) for split, files in listing.files.items()}
    listing.say(classes)
    with ThreadPoolExecutor(image_files.READERS) as pool:
        wide = [one.path for files in listing.files.values() for one in files if one.path.suffix.lower() in TIFF]
        white = max(pool.map(pixels.white_of, wide), default=0) or None
    found = {split: dataclasses.replace(part, white=white) for split, part in found.items()}
    info = Info("image", (cfg.size, cfg.size, cfg.channels), len(classes), classes)
    size_mb = sum(map(len, found.values())) * cfg.size**2 * cfg.channels / 2**20
    if size_mb > cfg.resident_mb:
        return dataclasses.replace(image_files.streamed_set(info, found, cfg, seed), marks=marks(listing))
    with ThreadPoolExecutor(image_files.READERS) as pool:
        arrays = {s: image_files.stack(list(pool.map(p.__getitem__, range(len(p))))) for s, p in found.items()}
    return dataclasses.replace(image_files.resident_set(info, arrays, cfg, seed), marks=marks(listing))


def _labelled(cfg: Config, files: list[File], classes: tuple[str, ...]) -> Pictures:
    if not classes:
        return Pictures(files, None, cfg.size, cfg.channels, cfg.background)
    if outside := next((file for file in files if not file.folder), None):
        raise DataError(f"{outside}: expected pictures in sub-folders only, one a class, or none at all")
    return Pictures(files, [classes.index(file.folder) for file in files], cfg.size, cfg.channels, cfg.background)
