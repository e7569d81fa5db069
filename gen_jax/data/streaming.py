"""Text files to token files, document by document: what `gen-jax data tokenize` does."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.data import reading, utf8
from gen_jax.data.documents import SEPARATOR
from gen_jax.data.source import SPLITS, cut, cut_end
from gen_jax.data.sources import text_file, token_file
from gen_jax.data.sources.text_file import Config
from gen_jax.data.tokenising import PIECE, Document, dtype_of, encoded, new_tokenizer, read_tokenizer
from gen_jax.errors import ConfigError, DataError
from gen_jax.text import WithEnd

Report = Callable[[int, int, str], None]  # bytes that were read, bytes in all, what is done with them


@dataclasses.dataclass
class Progress:
    """Counts the bytes that pass, of `total` in all passes over the text."""

    report: Report
    total: int
    note: str = ""
    done: int = 0

    def counted(self, texts: Iterable[str]) -> Iterator[str]:
        """`texts`, as they are."""
        for text in texts:
            yield text
            self.done = min(self.total, self.done + len(text.encode()))
            self.report(self.done, self.total, self.note)


def read_pieces(path: Path) -> Iterator[str]:
    """The text of a file in pieces of PIECE characters. Raises DataError if it is not UTF-8."""
    try:
        yield from between(utf8.decoded(reading.opened(path), path), 0)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def read_joined(files: list[Path]) -> Iterator[str]:
    """The texts of files with SEPARATOR between them, in pieces of any size."""
    for i, file in enumerate(files):
        if i:
            yield SEPARATOR
        yield from read_pieces(file)


def between(texts: Iterable[str], start: int, stop: int | None = None) -> Iterator[str]:
    """The characters from `start` to `stop` of all texts joined, in pieces of PIECE."""
    waiting: list[str] = []
    size = place = 0
    for text in texts:
        part = text[max(0, start - place) : None if stop is None else max(0, stop - place)]
        place += len(text)
        if part:
            waiting, size = [*waiting, part], size + len(part)
        if size >= PIECE:
            whole = "".join(waiting)
            cuts = range(0, size - size % PIECE, PIECE)
            yield from (whole[i : i + PIECE] for i in cuts)
            waiting, size = [whole[len(cuts) * PIECE :]], size % PIECE
        if stop is not None and place >= stop:
            break
    if size:
        yield "".join(waiting)


def _missing(cfg: Config, found: Collection[str]) -> tuple[str, ...]:
    return tuple(split for split in ("validation", "test") if getattr(cfg, split) > 0 and split not in found)


Documents = Callable[[], Iterable[Document]]  # read anew each time


def split_files(found: dict[str, list[Path]], cfg: Config, progress: Progress) -> dict[str, Documents]:
    """Split -> its documents, the same as `documents.cut_documents` and `documents.joined` make of whole texts.

    Args:
      found: split -> its files; the splits that are missing are cut off `train`.
    """
    missing, files = _missing(cfg, found), found["train"]
    if in_place := len(files) <= len(missing):
        length = sum(map(len, progress.counted(read_joined(files))))
        places = cut_end(range(length), cfg, missing)
    elif missing:
        found = found | {split: [files[i] for i in part] for split, part in cut(len(files), cfg, missing).items()}

    def documents(split: str) -> Iterable[Document]:
        if in_place and split in places:
            at = places[split]
            return [progress.counted(between(read_joined(files), at.start, at.stop))]
        if cfg.documents == "packed":
            return map(progress.counted, map(read_pieces, found[split]))
        return [progress.counted(between(read_joined(found[split]), 0))]

    names = [split for split in SPLITS if split in found or split in missing]
    return {split: functools.partial(documents, split) for split in names}


def write_npy(path: Path, arrays: Iterable[np.ndarray], dtype: Any) -> int:
    """One flat array [L] of many, written as they come; returns L."""
    length = 0
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        _write_header(file, dtype, 0)
        start = file.tell()
        for array in arrays:
            file.write(array.astype(dtype).tobytes())
            length += len(array)
        file.seek(0)
        _write_header(file, dtype, length)
        if file.tell() != start:
            raise RuntimeError(f"{path}: the header of {length} tokens is longer than that of none")
    temporary.replace(path)
    return length


def _write_header(file: Any, dtype: Any, length: int) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    # numpy leaves room for a longer number
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (length,)})


def tokenise(cfg: Config, out: Path, report: Report, overwrite: bool = False) -> dict[str, int]:
    """Writes train.npy, validation.npy, test.npy, tokenizer.json and, last, tokens.json.

    Args:
      cfg: the text and its tokeniser, as a resident source; the ids are those that it has. `context` and `order` do
        not matter.
      out: a folder, made if it is not there.
      report: called as bytes are read.
      overwrite: replace what is in `out`.

    Returns split -> tokens. Raises ConfigError if `out` is not empty, DataError where the text cannot be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise ConfigError(f"--out: {out} exists and is not empty; pass --overwrite to replace it, or another --out")
    found = text_file.files(cfg)
    size = sum(file.stat().st_size for files in found.values() for file in files)
    in_place = len(found["train"]) <= len(_missing(cfg, found))
    reads = not cfg.tokenizer_file and cfg.tokenizer != "byte"
    progress = Progress(report, size * (1 + in_place + reads), "finding the splits")
    splits = split_files(found, cfg, progress)
    if cfg.tokenizer_file:
        tokenizer = read_tokenizer(cfg.tokenizer_file)
    else:
        progress.note = f"reading for the {cfg.tokenizer} tokeniser"
        everything = itertools.chain.from_iterable(documents() for documents in splits.values())
        tokenizer = new_tokenizer(cfg.tokenizer, cfg.vocab_size, splits["train"](), everything)
    packed = WithEnd(tokenizer) if cfg.documents == "packed" else None
    end, vocab_size = (packed.end, packed.vocab_size) if packed else (None, tokenizer.vocab_size)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / token_file.INFO).unlink(missing_ok=True)
        (out / token_file.TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
        sizes = {}
        for split, documents in splits.items():
            progress.note = f"writing {split}"
            sizes[split] = write_npy(out / f"{split}.npy", encoded(tokenizer, documents(), end), dtype_of(vocab_size))
        facts = {"documents": cfg.documents, "vocab_size": vocab_size, "sizes": sizes}
        (out / token_file.INFO).write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise DataError(f"--out: {out}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"--tokenizer: {error}") from None
    report(progress.total, progress.total, "done")
    return sizes
