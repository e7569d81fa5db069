"""What `gen-jax data list | show | prepare` does."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.data import archives
from gen_jax.data.files import Kind, list_folder
from gen_jax.data.source import Dataset
from gen_jax.data.sources import image_folder, list_sources, load, parse, tfds, wav_folder
from gen_jax.errors import ConfigError

EMBEDDED = ("digits", "colours", "pydoc", "names", "gaussians", "markov", "ar", "reversal", "tones", "shapes")


def resolve(name: str, data_dir: str = "", **fields: Any) -> dict[str, Any]:
    """The section `config.data` that a name on the command line means.

    An embedded source, a path (.npz, text, archive of sound, folder of pictures, sound or text), else a TFDS name.
    """
    if name in EMBEDDED:
        return {"source": name, **fields}
    if name in list_sources():
        raise ConfigError(f"data: {name} needs a path or a name: pass a TFDS name, an .npz, a text file or a folder")
    path = Path(name).expanduser()
    if archives.is_archive(path):
        return {"source": "wav_folder", "path": str(path), **fields}
    if (path / "tokens.json").is_file():
        return {"source": "token_file", "path": str(path), **fields}
    if path.is_dir():
        return {"source": _source_of(path), "path": str(path), **fields}
    if os.path.lexists(path):
        return {"source": "npz" if path.suffix == ".npz" else "text_file", "path": str(path), **fields}
    return {"source": "tfds", "name": name, "data_dir": data_dir, **fields}


def _source_of(folder: Path) -> str:
    """The source that reads a folder: of sound where one file is, else of pictures where one is, else of text."""
    listing = list_folder(folder, Kind("files", pattern="*"), named="nothing")
    names = [file.name for file in listing.files["train"]]
    for source in (wav_folder, image_folder):
        if any(name in source.KIND for name in names):
            return source.__name__.rpartition(".")[2]
    return "text_file"


def list_prepared(data_dir: str = "") -> list[str]:
    """The names of the sets that TFDS has prepared in `data_dir`."""
    base = tfds.data_dir(data_dir)
    found = (
        [file.parent.parent.relative_to(base) for file in base.glob("**/dataset_info.json")] if base.is_dir() else []
    )
    return sorted({str(path) for path in found})


def describe(dataset: Dataset) -> dict[str, Any]:
    """What a set is: kind, shape of an example, sizes of the splits, and classes or vocabulary where it has them."""
    info = dataset.info
    found = {"kind": info.kind, "shape": info.shape, "sizes": dataset.sizes}
    if info.num_classes:
        found["classes"] = ", ".join(info.class_names) or info.num_classes
    if info.vocab_size:
        found["vocab_size"] = info.vocab_size
    return found


def look(
    section: dict[str, Any], split: str = "train", n: int = 64
) -> tuple[Dataset, str | tuple[np.ndarray, list[str]]]:
    """The set, and what to show of a split: an excerpt of its text, or uint8 pictures [N, H, W, 1 or 3] with their
    classes or captions, [] where they have none, or vectors [N, D] and [].

    Records of text are the first `n`, one a line. Images are the first `n` of the split; of two unpaired sets the first
    `n` of each, whose classes are a and b. Vectors are all.
    """
    dataset = load(parse(section), seed=0)
    if dataset.info.records:
        return dataset, _records(dataset, split, n)
    if dataset.info.kind == "tokens":
        feed = dataset.eval_feed(split, 1)
        ids = feed.resident["tokens"][:1000] if feed.resident else feed.rows(0)["tokens"][0]
        return dataset, dataset.tokenizer.decode(ids) if dataset.tokenizer else " ".join(map(str, ids.tolist()))
    if dataset.info.kind == "pairs":
        return dataset, _pairs(dataset, split)
    feed = dataset.eval_feed(split, min(n, dataset.sizes.get(split, n)))
    if dataset.info.kind == "audio":
        return dataset, _sounds(dataset, split)
    if dataset.info.kind == "vector":
        return dataset, (feed.resident["vector"], [])
    batch = feed.assemble(feed.resident, feed.rows(0))
    names = ("image_a", "image_b") if dataset.info.kind == "unpaired" else ("image",)
    sides = [batch[name] for name in names]
    images = np.concatenate(sides)
    classes = _classes(dataset, batch, [len(side) for side in sides])
    return dataset, (images if images.shape[-1] in (1, 3) else images[..., :1], classes)


def _classes(dataset: Dataset, batch: Any, sizes: list[int]) -> list[str]:
    """The classes or captions of a batch; of two unpaired sets of these sizes which set an image is of."""
    if dataset.info.kind == "unpaired":
        return ["a"] * sizes[0] + ["b"] * sizes[1]
    if dataset.info.captions and dataset.tokenizer:
        return [dataset.tokenizer.decode(row) for row in np.asarray(batch["caption"])]
    names = dataset.info.class_names
    return [names[i] if names else str(i) for i in np.asarray(batch["label"])] if dataset.info.num_classes else []


def _records(dataset: Dataset, split: str, n: int) -> str:
    """The first `n` records, one a line."""
    assert dataset.tokenizer
    batch = dataset.eval_feed(split, n).rows(0)
    return "\n".join(dataset.tokenizer.decode(row) for row in batch["tokens"][batch["valid"]])


def _pairs(dataset: Dataset, split: str, n: int = 8) -> str:
    """The first `n` pairs, each source above its target."""
    assert dataset.tokenizer
    feed = dataset.eval_feed(split, n)
    arrays = feed.resident
    sides = (arrays["source"], arrays["source_segment"]), (arrays["tokens"][:, 1:], arrays["segment"])
    lines = [[dataset.tokenizer.decode(row[kept > 0]) for row, kept in zip(*side, strict=True)] for side in sides]
    return "\n\n".join("\n".join(pair) for pair in list(zip(*lines, strict=True))[:n])


def _sounds(dataset: Dataset, split: str, n: int = 8) -> str:
    """The class, length and loudness of the first `n` sounds."""
    feed, info = dataset.eval_feed(split, n), dataset.info
    lines = []
    for i in range(min(n, dataset.sizes[split])):
        seconds = feed.resident["mask"][i].sum() / info.sample_rate
        loudest = np.abs(feed.resident["audio"][i].astype(np.int64)).max() / 32768
        name = info.class_names[feed.resident["label"][i]] if info.class_names else "sound"
        lines.append(f"{name}: {seconds:.3f} s, loudest {loudest:.3f}")
    return "\n".join(lines)


def prepare(name: str, data_dir: str = "", manual_dir: str = "") -> str:
    """Prepares a TFDS set and says where it is; embedded sources need nothing. Errors as `tfds.prepare`."""
    if name in EMBEDDED:
        return f"{name} is embedded: nothing to prepare"
    if name in list_sources():
        raise ConfigError(f"data: {name} reads your own files: nothing to prepare")
    return f"{name} is in {tfds.prepare(name, data_dir, manual_dir)}"
