"""TensorFlow Datasets by name: prepared array_record sets of images or text, read without TensorFlow."""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.util
import os
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gen_jax.data import reading
from gen_jax.data.datasets import ExampleSet, TokenSet
from gen_jax.data.records import RecordSet
from gen_jax.data.source import SPLITS, AnySource, Arrays, Info
from gen_jax.data.split_names import SPLIT_OF
from gen_jax.errors import ConfigError, DataError, first_line, kind_and_line
from gen_jax.io.cache import cached
from gen_jax.settings import Count, Positive, UserPath


class Config(AnySource):
    """A prepared set."""

    source: Literal["tfds"] = "tfds"
    name: str
    """Name in TFDS: `mnist`, `mnist:3.0.1`, `glue/sst2`."""
    data_dir: UserPath = ""
    """Folder in which it was prepared; "" = $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    size: Count = 0
    """Pixels a side that images are cropped and resized to; 0 = as they are."""
    resident_mb: Positive = 1024
    """Larger sets of images are streamed from disk, smaller ones are kept on the device."""


def data_dir(path: str) -> Path:
    """The folder that `path` means, as TFDS has it."""
    return Path(path or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find(name: str, path: str) -> Path:
    """The folder of the newest prepared version. Raises DataError that says how to prepare it."""
    name, _, version = name.partition(":")
    base = data_dir(path)
    found = [file.parent for file in (base / name).glob(f"{version or '*'}/dataset_info.json")]
    if not found:
        option = f" {shlex.quote(f'--data_dir={path}')}" if path else ""
        configs = sorted(file.parent.parent.name for file in (base / name).glob("*/*/dataset_info.json"))
        hint = f" (there is {', '.join(f'{name}/{config}' for config in configs)})" if configs else ""
        raise DataError(f"tfds: {name!r} is not in {base}{hint}, run: gen-jax data prepare {name}{option}")
    return max(found, key=lambda folder: [int(part) for part in folder.name.split(".") if part.isdigit()])


def load(cfg: Config, seed: int) -> ExampleSet | TokenSet | RecordSet:
    """The set, with the missing splits cut; `seed` is that of the training order."""
    folder = find(cfg.name, cfg.data_dir)
    try:
        meta = dict(reading.json_of(folder / "dataset_info.json"))
        features = reading.json_of(folder / "features.json")["featuresDict"]["features"]
        kinds = {name: feature["pythonClassName"].rpartition(".")[2] for name, feature in features.items()}
    except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"tfds: {folder} cannot be read ({first_line(error)}), prepare it again") from None
    if meta.get("fileFormat") != "array_record":
        raise DataError(
            f"tfds: {folder} is in the format {meta.get('fileFormat')}, expected array_record, "
            f"run: gen-jax data prepare {cfg.name} --data_dir=ANOTHER"
        )
    images = [name for name, kind in kinds.items() if kind == "Image"]
    texts = [name for name, kind in kinds.items() if kind == "Text"]
    if images:
        cfg.check_read("image")
        return _images(cfg, folder, meta, features[images[0]], images[0], _label(kinds), seed)
    if len(texts) == 1 and set(kinds.values()) <= {"Text", "ClassLabel"}:
        if cfg.size:
            raise ConfigError(f"config.data.size: expected 0, {cfg.name} is text, found {cfg.size}")
        return _text(cfg, folder, texts[0], seed)
    if "Audio" in kinds.values():
        raise DataError(
            f"tfds: reading the sound of {cfg.name} needs TensorFlow; use data.source=wav_folder with the path of the "
            "original files or their archive"
        )
    found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    raise DataError(f"tfds: expected images or one text, {cfg.name} has {found}")


def _label(kinds: dict[str, str]) -> str | None:
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    return "label" if "label" in labels else labels[0] if len(labels) == 1 else None


def _builder(folder: Path) -> Any:
    import tensorflow_datasets as tfds  # 0.6 s

    with _readable(folder):
        return tfds.builder_from_directory(str(folder))


def _sources(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The builder, and split -> its examples by index."""
    builder = _builder(folder)
    with _readable(folder):
        names = _splits(builder.info.splits)
        return builder, {split: builder.as_data_source(split=name) for split, name in names.items()}


def _splits(names: Collection[str]) -> dict[str, str]:
    """Split -> what the set calls it: as we do, else any other of its names (`data.split_names`).

    Raises DataError if there is nothing to train on.
    """
    found = {SPLIT_OF[name.lower()]: name for name in names if name.lower() in SPLIT_OF}
    found |= {split: split for split in SPLITS if split in names}
    if "train" not in found:
        raise DataError(f"tfds: expected a split train, found {', '.join(names) or 'none'}")
    return {split: found[split] for split in SPLITS if split in found}


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Raises DataError for what TFDS and array_record raise where a file of a set is damaged: many kinds."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"tfds: {folder} cannot be read ({kind_and_line(error)}), prepare it again") from error


def _text(cfg: Config, folder: Path, key: str, seed: int) -> TokenSet | RecordSet:
    from gen_jax.data.documents import pack, token_set, unpack

    def build() -> Arrays:
        _, sources = _sources(folder)
        arrays = {}
        for split, source in sources.items():
            with _readable(folder):
                packed = pack([bytes(one[key]) for one in _chunks(source)])
            arrays |= {f"{split}_{name}": array for name, array in packed.items()}
        return arrays

    arrays = cached(_cache_name(cfg, folder), build)
    splits = [split for split in SPLITS if f"{split}_text" in arrays]
    found = {split: unpack({name: arrays[f"{split}_{name}"] for name in ("text", "ends")}) for split in splits}
    return token_set(found, cfg, seed)


def _images(
    cfg: Config, folder: Path, meta: dict, feature: dict, image: str, label: str | None, seed: int
) -> ExampleSet:
    from gen_jax.data import image_files

    with _readable(folder):
        shape = tuple(int(dim) for dim in feature["image"]["shape"].get("dimensions", (-1, -1, 3)))
        lengths = {split["name"]: sum(map(int, split["shardLengths"])) for split in meta["splits"]}
        n = sum(lengths[name] for name in _splits(lengths).values())
    channels = shape[2] if shape[2] > 0 else 3
    if not cfg.size and min(shape) < 1:
        raise ConfigError(f"config.data.size: expected the pixels a side, {cfg.name} has pictures of many sizes")
    shape = (cfg.size, cfg.size, channels) if cfg.size else shape
    names = tuple(_class_names(folder, label)) if label else ()
    info = Info("image", shape, len(names), names)
    if n * np.prod(shape) / 2**20 > cfg.resident_mb:
        _, sources = _sources(folder)
        found = {split: Pictures(folder, source, image, label, cfg.size) for split, source in sources.items()}
        return image_files.streamed_set(info, found, cfg, seed)

    def build() -> Arrays:
        _, sources = _sources(folder)
        arrays = {}
        for split, source in sources.items():
            with _readable(folder):
                examples = [_example(one, image, label, cfg.size) for one in _chunks(source)]
            arrays |= {f"{split}_{name}": array for name, array in image_files.stack(examples).items()}
        return arrays

    arrays = cached(_cache_name(cfg, folder), build)
    found = {split: {} for split in SPLITS if f"{split}_image" in arrays}
    for split in found:
        found[split] = {k: arrays[f"{split}_{k}"] for k in ("image", "label") if f"{split}_{k}" in arrays}
    return image_files.resident_set(info, found, cfg, seed)


def _class_names(folder: Path, label: str) -> list[str]:
    file = folder / f"{label}.labels.txt"
    if file.exists():
        return file.read_text().splitlines()
    features = reading.json_of(folder / "features.json")["featuresDict"]["features"]
    return [str(i) for i in range(int(features[label]["classLabel"]["numClasses"]))]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A TFDS data source as pictures and labels."""

    folder: Path
    source: Any
    image: str
    label: str | None
    size: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with _readable(self.folder):
            return _example(self.source[index], self.image, self.label, self.size)


def _example(one: dict, image: str, label: str | None, size: int) -> dict[str, Any]:
    from gen_jax.data.pixels import resize

    example = {"image": resize(one[image], size) if size else one[image]}
    return example | {"label": one[label]} if label else example


def _chunks(source: Any, size: int = 1000):
    """Every example in order: reading many at once is three times as fast."""
    for start in range(0, len(source), size):
        yield from source.__getitems__(list(range(start, min(start + size, len(source)))))


def _cache_name(cfg: Config, folder: Path) -> str:
    """Changes with the files of the set and with `size`."""
    files = "".join(f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}\n" for f in sorted(folder.iterdir()))
    digest = hashlib.sha256(f"2 {folder.resolve()} {cfg.size}\n{files}".encode()).hexdigest()[:16]
    return f"tfds-{folder.parent.name}-{digest}"


def prepare(name: str, path: str = "", manual_dir: str = "") -> Path:
    """Downloads and prepares a set as array_record; returns its folder.

    Args:
      name: as in `Config`.
      path: where to; as `Config.data_dir`.
      manual_dir: a folder that holds the original files, for machines without a network; TFDS checks their sha256.

    Raises ConfigError for an unknown name, DataError where TensorFlow or the files are missing.
    """
    import tensorflow_datasets as tfds

    if manual_dir and not Path(manual_dir).expanduser().is_dir():
        raise ConfigError(f"manual_dir: there is no folder {manual_dir}")
    builders = tfds.list_builders(with_community_datasets=False)
    base = name.partition("/")[0].partition(":")[0]
    if base not in builders:
        near = difflib.get_close_matches(base, builders, n=3)
        raise ConfigError(f"tfds: no set is called {base!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(f"preparing {name} needs TensorFlow (reading it does not), run: pip install 'gen-jax[prepare]'")
    originals = Path(manual_dir).expanduser().resolve() if manual_dir else None
    try:
        builder = tfds.builder(name, data_dir=str(data_dir(path)), file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=originals))
    except ImportError as error:
        missing = error.name or "a package that is not installed"
        raise DataError(f"preparing {name} needs {missing}, run: pip install 'gen-jax[prepare]'") from None
    except Exception as error:  # no network, a wrong checksum, a full disk: each has its own type
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise DataError(f"tfds: preparing {name} failed: {lines[0]}") from error
    return find(name, path)
