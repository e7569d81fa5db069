"""What a run's data were when it began, in a few lines of JSON: to see later whether they are the same."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen_jax.data.files import Listing

WHOLE, BLOCK = 2**26, 2**16  # bytes: larger arrays are sampled in blocks


def fingerprint(dataset: Any) -> dict[str, Any]:
    """Kind, shape, classes, vocabulary and sizes of a set, and a hash of each split.

    The hash is of the names and sizes of its files where the set has `marks`, else of its arrays; of an array beyond
    WHOLE bytes of its ends and of evenly spaced blocks between.
    """
    if hasattr(dataset, "a"):  # two sets
        parts = {side: fingerprint(getattr(dataset, side)) for side in ("a", "b")}
        return {f"{side}.{key}": value for side, found in parts.items() for key, value in found.items()}
    info = dataset.info
    found = {"kind": info.kind, "shape": list(info.shape), "classes": list(info.class_names) or info.num_classes}
    found |= {"vocabulary": info.vocab_size, "sample rate": info.sample_rate}
    found |= {f"size of {split}": size for split, size in dataset.sizes.items()}
    marks = getattr(dataset, "marks", None) or {split: _hash(dataset.contents(split)) for split in dataset.sizes}
    return found | {f"contents of {split}": mark for split, mark in marks.items()}


def marks(listing: Listing) -> dict[str, str]:
    """Split -> a hash of the names and sizes of its files."""
    return {
        split: hashlib.sha256("".join(f"{file.name}\n{file.size}\n" for file in files).encode()).hexdigest()
        for split, files in listing.files.items()
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In words; contents are named only where nothing else differs."""
    keys = [key for key in (*old, *(key for key in new if key not in old)) if old.get(key) != new.get(key)]
    lines = [
        f"{key}: {_words(old.get(key))} then, {_words(new.get(key))} now" for key in keys if "contents of" not in key
    ]
    return lines or [f"{key} differ" for key in keys]


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        flat = array.reshape(-1)
        step = max(1, BLOCK // array.itemsize)
        blocks = range(0, len(flat), step)
        if array.nbytes > WHOLE:
            places = np.linspace(0, len(blocks) - 1, WHOLE // BLOCK).astype(int)
            blocks = [blocks[i] for i in places]
        for start in blocks:
            digest.update(np.ascontiguousarray(flat[start : start + step]).tobytes())
    return digest.hexdigest()
