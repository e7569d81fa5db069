"""Your own sound: a folder of wav files, or an archive of one that is read without being unpacked."""

import contextlib
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int16
from pydantic import model_validator

from gen_jax.data import archives, files
from gen_jax.data.datasets import ExampleSet
from gen_jax.data.source import SPLITS, Arrays, ExampleSource, Info, cut_arrays
from gen_jax.errors import DataError
from gen_jax.io.cache import cached
from gen_jax.settings import Count, NeededPath, Positive, Regex

KIND = files.Kind("sounds", (".wav", ".wave"))
LITTLE = 0.5  # said where less than this share of the samples is read


class Config(ExampleSource):
    """Wav files at any depth below a folder, or in a .tar, .tar.gz or .zip archive."""

    source: Literal["wav_folder"] = "wav_folder"
    path: NeededPath
    """The folder or the archive. Folders in it may be named after splits (`data.split_names`)."""
    label: Regex = ""
    """A regex with one group, searched in a file's name: the group is its class. "" = its folder is its class, if there
    are several."""
    length: Positive = 16_000
    """Samples T of every example: longer files are cut at the end, shorter ones padded with silence of mask 0."""
    sample_rate: Count = 0
    """Sample rate of every file in Hz; 0 = that of the first file, which all must have."""
    test_pattern: Regex = ""
    """A regex searched in a file's name: the files of the test split. "" = cut from the others, by `split_seed`."""
    validation_pattern: Regex = ""
    """Pattern like `test_pattern`, for the validation split."""

    @model_validator(mode="after")
    def _one_group(self) -> "Config":
        if self.label and re.compile(self.label).groups != 1:
            raise ValueError(f"label: expected a regular expression with one group, got {self.label!r}")
        return self


def load(cfg: Config, seed: int) -> ExampleSet:
    """The set, with the missing splits cut; `seed` is that of the training order. It lives on the device as int16.

    Channels are averaged; samples in -1 .. 1 become -32768 .. 32767, what lies beyond is clipped, and said. Raises
    DataError where there is no wav file, one cannot be read, is empty or has another rate or no class, or a pattern
    finds nothing.
    """
    path = Path(cfg.path).expanduser()
    if not path.is_dir() and not archives.is_archive(path):
        raise DataError(f"config.data.path: there is no folder or archive ({', '.join(archives.ENDS)}) {path}")
    found = cached(_cache_name(cfg, path), lambda: _read_all(cfg, path))
    print("\n".join(found["lines"]), file=sys.stderr, flush=True)
    names = [str(name) for name in found["names"]]
    classes, label = _classes(cfg, names)
    mask = np.arange(cfg.length) < found["sizes"][:, None]
    arrays = {"audio": found["audio"], "mask": mask.astype(np.float32)}
    if classes:
        arrays["label"] = label
    info = Info("audio", (cfg.length,), len(classes), classes, sample_rate=int(found["rate"]))
    return ExampleSet(info, cut_arrays(_splits(cfg, names, found["splits"], arrays), cfg), seed)


def fit(sound: Int16[np.ndarray, " L"], length: int) -> tuple[Int16[np.ndarray, " T"], int]:
    """A recording cut or padded with silence to T samples, and how many of them are the recording's."""
    fitted = np.zeros(length, np.int16)
    kept = min(len(sound), length)
    fitted[:kept] = sound[:kept]
    return fitted, kept


@contextlib.contextmanager
def _listed(path: Path) -> Iterator[files.Listing]:
    with (
        archives.opened(path, KIND) if path.is_file() else contextlib.nullcontext(files.list_folder(path, KIND)) as one
    ):
        yield one


def _read_all(cfg: Config, path: Path) -> Arrays:
    """Every file, by split and name; `lines` is what to say of them."""
    rows, expected, samples, clipped = {}, cfg.sample_rate, 0, []
    with _listed(path) as listing:
        found = [(split, file) for split, of_split in listing.files.items() for file in of_split]
        for split, file in sorted(found, key=lambda one: one[1].place):
            sound, rate, length = _mono(file, cfg.length)
            expected = expected or rate
            if rate != expected:
                raise DataError(f"{file}: expected {expected} Hz (config.data.sample_rate), found {rate}; resample it")
            samples += length
            clipped += [file] * bool((np.abs(sound) > 1).any())
            rows[split, file.name] = fit(np.clip(np.round(sound * 32768), -32768, 32767).astype(np.int16), cfg.length)
    sounds, sizes = zip(*(rows[split, file.name] for split, file in found), strict=True)
    lines = [listing.line()]
    if clipped:
        lines.append(f"data: {len(clipped)} sounds exceed -1 .. 1 and are clipped, such as {clipped[0]}")
    if sum(sizes) < LITTLE * samples:
        each = f"{samples / len(found):.0f}"
        read = f"{sum(sizes) / samples:.1%}"
        lines.append(
            f"data: {read} of the samples are read: sounds have {each} on average, data.length is {cfg.length}"
        )
    return {
        "names": np.array([file.name for _, file in found]),
        "splits": np.array([split if listing.places else "" for split, _ in found]),
        "audio": np.stack(sounds),
        "sizes": np.array(sizes, np.int32),
        "rate": np.array(expected),
        "lines": np.array(lines),
    }


def _mono(file: files.File, length: int) -> tuple[Float64[np.ndarray, " L"], int, int]:
    """The mean of the channels, at most `length` samples; the sample rate; the samples that the file has."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(file.contents())) as wav:
            sound = wav.read(length, "float64", always_2d=True)  # [L, channels], full scale is 1
            rate, frames = wav.samplerate, wav.frames
    except soundfile.LibsndfileError as error:
        raise DataError(f"{file}: cannot be read as sound: {error.error_string}") from None
    if not len(sound):
        raise DataError(f"{file}: holds no samples")
    if not np.isfinite(sound).all():
        raise DataError(f"{file}: expected finite samples, found NaN or infinity")
    return sound.mean(axis=1), rate, max(frames, len(sound))


def _classes(cfg: Config, names: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes, sorted, and the class of each file, int32 [N]."""
    paths = [PurePosixPath(name) for name in names]
    if cfg.label:
        matches = [re.search(cfg.label, path.name) for path in paths]
        of_file = [match.group(1) or "" if match else "" for match in matches]
        if "" in of_file:
            raise DataError(f"config.data.label: {cfg.label!r} finds nothing in {names[of_file.index('')]}")
    else:
        of_file = [path.parent.name for path in paths]
        if len(set(of_file)) == 1:
            return (), np.zeros(len(names), np.int32)
    classes = tuple(sorted(set(of_file)))
    return classes, np.array([classes.index(name) for name in of_file], np.int32)


def _splits(cfg: Config, names: list[str], named: np.ndarray, arrays: Arrays) -> dict[str, Arrays]:
    """The splits that folders name (`named`, "" of none), and those that patterns find in the others."""
    patterns = {"validation": cfg.validation_pattern, "test": cfg.test_pattern}
    split = np.where(named == "", "train", named)
    for key, pattern in patterns.items():
        if not pattern:
            continue
        if (named == key).any():
            raise DataError(f"config.data.{key}_pattern: expected none, a folder is named after {key}")
        here = np.array([bool(re.search(pattern, PurePosixPath(name).name)) for name in names])
        here &= split == "train"
        if not here.any():
            raise DataError(f"config.data.{key}_pattern: {pattern!r} finds no file, such as {names[0]}")
        split = np.where(here, key, split)
    if not (split == "train").any():
        raise DataError("config.data: the patterns leave no file to train on")
    return {key: {k: v[split == key] for k, v in arrays.items()} for key in SPLITS if (split == key).any()}


def _cache_name(cfg: Config, path: Path) -> str:
    """Changes with the files, `length` and `sample_rate`."""
    stats = path.stat()
    found = f"{stats.st_size} {stats.st_mtime_ns}"
    if path.is_dir():
        listing = files.list_folder(path, KIND)
        every = [(split, file) for split, of_split in listing.files.items() for file in of_split]
        found = "".join(f"{s} {f.name} {f.size} {f.path.stat().st_mtime_ns}\n" for s, f in every) + listing.line()
    digest = hashlib.sha256(f"2 {path.resolve()} {cfg.length} {cfg.sample_rate}\n{found}".encode()).hexdigest()[:16]
    return f"wav-{path.name.partition('.')[0]}-{digest}"
