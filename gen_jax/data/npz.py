"""Your own arrays: an .npz file with `image` (and `label`), `vector`, or `tokens`."""

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from gen_jax.data.base import SPLITS, AnySource, Arrays, Info, cut_arrays, cut_end
from gen_jax.data.datasets import ExampleSet, TokenSet
from gen_jax.errors import DataError
from gen_jax.settings import UserPath


class Config(AnySource):
    """One file.

    path: holds `image` uint8 [N, H, W] or [N, H, W, C] and perhaps `label` [N]; or `vector` [N, D]; or `tokens` [L],
      one long text of ids. `validation_image`, `test_tokens` and so on hold the other splits; where they are not,
      they are cut from the first, at random for examples and from the end for tokens.
    """

    source: Literal["npz"] = "npz"
    path: UserPath


def load(cfg: Config, seed: int) -> ExampleSet | TokenSet:
    """The set; `seed` is that of the training order. Raises DataError that names the array which is wrong."""
    arrays = _read(Path(cfg.path).expanduser())
    kinds = [kind for kind in ("image", "vector", "tokens") if kind in arrays]
    if len(kinds) != 1:
        raise DataError(f"{cfg.path}: expected one of image, vector or tokens, found {', '.join(sorted(arrays))}")
    kind = kinds[0]
    cfg.check_order(kind)
    if kind == "tokens":
        return _tokens(cfg, _splits(arrays, ("tokens",)), seed)
    found = _splits(arrays, ("image", "label") if kind == "image" else ("vector",))
    checked = {split: _examples(cfg, split, parts) for split, parts in found.items()}
    shapes = {parts[kind].shape[1:] for parts in checked.values()}
    if len(shapes) > 1:
        raise DataError(f"{cfg.path}: expected splits of one shape, found {sorted(shapes)}")
    labels = [parts["label"] for parts in checked.values() if "label" in parts]
    classes = int(max(label.max() for label in labels)) + 1 if labels else 0
    info = Info("image" if kind == "image" else "vector", shapes.pop(), classes)
    return ExampleSet(info, cut_arrays(checked, cfg), seed)


def _read(path: Path) -> Arrays:
    if not path.is_file():
        raise DataError(f"config.data.path: there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npz of plain arrays: {str(error).splitlines()[0]}") from None


def _splits(arrays: Arrays, names: tuple[str, ...]) -> dict[str, Arrays]:
    """Split -> its arrays, without the prefix of the split."""
    found = {}
    for split in SPLITS:
        prefix = "" if split == "train" else f"{split}_"
        parts = {name: arrays[prefix + name] for name in names if prefix + name in arrays}
        if names[0] in parts:
            found[split] = parts
    return found


def _examples(cfg: Config, split: str, parts: Arrays) -> Arrays:
    def expect(right: bool | np.bool, name: str, what: str):
        if not right:
            found = f"{parts[name].dtype} {list(parts[name].shape)}"
            raise DataError(f"{cfg.path}: {name} of {split}: expected {what}, found {found}")

    checked = {}
    if "image" in parts:
        image = parts["image"]
        expect(image.dtype == np.uint8 and image.ndim in (3, 4) and image.size > 0, "image", "uint8 [N, H, W(, C)]")
        checked["image"] = image if image.ndim == 4 else image[..., None]
    if "label" in parts:
        label = parts["label"]
        right = np.issubdtype(label.dtype, np.integer) and label.shape == parts["image"].shape[:1]
        expect(right and label.min() >= 0, "label", "integers [N] from 0")
        checked["label"] = label.astype(np.int32)
    if "vector" in parts:
        vector = parts["vector"]
        number = np.issubdtype(vector.dtype, np.floating) or np.issubdtype(vector.dtype, np.integer)
        expect(number and vector.ndim == 2 and vector.size > 0, "vector", "numbers [N, D]")
        expect(np.isfinite(vector).all(), "vector", "finite numbers")
        checked["vector"] = vector.astype(np.float32)
    return checked


def _tokens(cfg: Config, found: dict[str, Arrays], seed: int) -> TokenSet:
    tokens = {split: parts["tokens"] for split, parts in found.items()}
    for split, ids in tokens.items():
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or not len(ids) or ids.min() < 0:
            raise DataError(
                f"{cfg.path}: tokens of {split}: expected ids [L] from 0, found {ids.dtype} {list(ids.shape)}"
            )
    vocab = int(max(ids.max() for ids in tokens.values())) + 1
    tokens |= cut_end(tokens["train"], cfg, tuple(split for split in SPLITS if split not in tokens))
    dtype = np.uint8 if vocab <= 256 else np.int32
    tokens = {split: tokens[split].astype(dtype) for split in SPLITS if split in tokens}
    return TokenSet(Info("tokens", (cfg.context + 1,), vocab_size=vocab), tokens, seed, cfg.order)
