"""Your own arrays: an .npz file with `image` (and `label`), `vector`, or `tokens`."""

import math
import sys
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from gen_jax.data.bounds import check_expansion
from gen_jax.data.datasets import ExampleSet, TokenSet
from gen_jax.data.reading import printable
from gen_jax.data.source import SPLITS, AnySource, Arrays, Info, cut_arrays, cut_end
from gen_jax.data.split_names import SPLIT_OF
from gen_jax.errors import DataError, first_line
from gen_jax.settings import NeededPath

NAMES = ("image", "label", "vector", "tokens")
LARGEST_ID = 2**31 - 1
EXACT = 2**24  # integers up to it are floats of 32 bits


class Config(AnySource):
    """One file."""

    source: Literal["npz"] = "npz"
    path: NeededPath
    """The file, with arrays `image`, `vector` or `tokens`.

    It holds `image` uint8 [N, H, W] or [N, H, W, C] and perhaps `label` [N]; or `vector` [N, D]; or `tokens` [L], one
    long text of ids. `validation_image`, `test_tokens` and so on hold the other splits (any of `data.split_names`).
    Missing ones are cut from the first, at random for examples and from the end for tokens. All splits have the same
    arrays.
    """


def load(cfg: Config, seed: int) -> ExampleSet | TokenSet:
    """The set; `seed` is that of the training order. Raises DataError that names the array which is wrong."""
    arrays = _read(Path(cfg.path).expanduser())
    found = _splits(cfg.path, arrays)
    kinds = [kind for kind in ("image", "vector", "tokens") if kind in found.get("train", {})]
    if len(kinds) != 1:
        there = ", ".join(sorted(map(printable, arrays)))
        raise DataError(f"{cfg.path}: expected one of image, vector or tokens, found {there or 'nothing'}")
    kind = kinds[0]
    cfg.check_read(kind.removesuffix("s"), ("order", "context") if kind == "tokens" else ())
    for split, parts in found.items():
        if parts.keys() != found["train"].keys():
            names = ", ".join(sorted(parts))
            raise DataError(
                f"{cfg.path}: expected {', '.join(sorted(found['train']))} of {split}, as of train, found {names}"
            )
    if kind == "tokens":
        return _tokens(cfg, found, seed)
    checked = {split: _examples(cfg, split, parts) for split, parts in found.items()}
    kind_of = {split: f"{parts[kind].dtype} {list(parts[kind].shape[1:])}" for split, parts in found.items()}
    if len(set(kind_of.values())) > 1:
        each = ", ".join(f"{split} {what}" for split, what in kind_of.items())
        raise DataError(f"{cfg.path}: expected splits of one shape and type, found {each}")
    classes = {split: int(parts["label"].max()) + 1 for split, parts in checked.items() if "label" in parts}
    if classes and max(classes.values()) > classes["train"]:
        split = max(classes, key=lambda one: classes[one])
        raise DataError(
            f"{cfg.path}: label of {split}: expected those of train, 0 to {classes['train'] - 1}, "
            f"found {classes[split] - 1}"
        )
    shape = checked["train"][kind].shape[1:]
    info = Info("image" if kind == "image" else "vector", shape, classes.get("train", 0))
    return ExampleSet(info, cut_arrays(checked, cfg), seed)


def _read(path: Path) -> Arrays:
    """All arrays of the file. Sizes are checked before anything of theirs is allocated."""
    if not path.is_file():
        raise DataError(f"config.data.path: there is no file {printable(path)}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_expansion(printable(path), path.stat().st_size, sum(one.file_size for one in members))
            return {one.filename.removesuffix(".npy"): _read_member(archive, one) for one in members}
    except DataError:
        raise
    except Exception as error:  # a damaged file: zipfile, zlib and numpy raise many kinds
        line = first_line(error) or type(error).__name__
        raise DataError(f"{printable(path)}: not an .npz of plain arrays: {line}") from None


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Raises ValueError if the header of an array does not say the size that the archive has for it."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        header = file.tell()
    name = printable(member.filename)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are never loaded")
    size = math.prod(shape) * dtype.itemsize
    if header + size != member.file_size:
        raise ValueError(f"{name}: its header says {size:,} bytes, the archive {member.file_size - header:,}")
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # the end of the member: only there is its checksum compared
    return array


def _splits(path: str, arrays: Arrays) -> dict[str, Arrays]:
    """Split -> its arrays, without the prefix of the split; says which arrays have no place."""
    found: dict[str, Arrays] = {}
    left = []
    for name, array in arrays.items():
        prefix, _, rest = name.rpartition("_")
        split = SPLIT_OF.get(prefix.lower()) if prefix else "train"
        if split is None or rest not in NAMES:
            left.append(printable(name))
        elif rest in found.setdefault(split, {}):
            raise DataError(f"{path}: {printable(name)}: expected one {rest} of {split}, found several")
        else:
            found[split][rest] = array
    if left and found:
        print(f"data: {path}: skipped: {len(left)} arrays of other names ({', '.join(left)})", file=sys.stderr)
    return {split: found[split] for split in SPLITS if split in found}


def _examples(cfg: Config, split: str, parts: Arrays) -> Arrays:
    def expect(right: bool | np.bool, name: str, what: str):
        if not right:
            found = f"{parts[name].dtype} {list(parts[name].shape)}"
            raise DataError(f"{cfg.path}: {name} of {split}: expected {what}, found {found}")

    checked = {}
    if "image" in parts:
        image = parts["image"]
        expect(image.dtype == np.uint8 and image.ndim in (3, 4) and image.size > 0, "image", "uint8 [N, H, W(, C)]")
        first = image.ndim == 4 and image.shape[3] > 4 >= image.shape[1]
        expect(not first, "image", "channels last, [N, H, W, C] (np.moveaxis(image, 1, -1))")
        checked["image"] = image if image.ndim == 4 else image[..., None]
    if "label" in parts:
        label = parts["label"]
        expect("image" in parts, "label", "image beside it")
        right = np.issubdtype(label.dtype, np.integer) and label.shape == parts["image"].shape[:1]
        expect(right and label.min() >= 0 and label.max() < LARGEST_ID, "label", "integers [N] from 0")
        checked["label"] = label.astype(np.int32)
    if "vector" in parts:
        vector = parts["vector"]
        whole = np.issubdtype(vector.dtype, np.integer)
        expect(whole or np.issubdtype(vector.dtype, np.floating), "vector", "numbers [N, D]")
        expect(vector.ndim == 2 and vector.size > 0, "vector", "numbers [N, D]")
        expect(np.isfinite(vector).all(), "vector", "finite numbers")
        # a plain float would overflow beside float16
        largest = np.float64(EXACT if whole else np.finfo(np.float32).max)
        expect(vector.max() <= largest and vector.min() >= -largest, "vector", f"numbers up to {largest:g} (float32)")
        checked["vector"] = vector.astype(np.float32)
    return checked


def _tokens(cfg: Config, found: dict[str, Arrays], seed: int) -> TokenSet:
    tokens = {split: parts["tokens"] for split, parts in found.items()}
    for split, ids in tokens.items():
        right = ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer) and len(ids)
        if not right or ids.min() < 0 or ids.max() >= LARGEST_ID:
            raise DataError(
                f"{cfg.path}: tokens of {split}: expected ids [L] from 0, found {ids.dtype} {list(ids.shape)}"
            )
    vocab = int(max(ids.max() for ids in tokens.values())) + 1
    tokens |= cut_end(tokens["train"], cfg, tuple(split for split in SPLITS if split not in tokens))
    dtype = np.uint8 if vocab <= 256 else np.int32
    tokens = {split: tokens[split].astype(dtype) for split in SPLITS if split in tokens}
    return TokenSet(Info("tokens", (cfg.context + 1,), vocab_size=vocab), tokens, seed, cfg.order)
