"""Your own sound: a folder of wav files, or an archive of one that is read without being unpacked."""

import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from jaxtyping import Int16
from pydantic import model_validator

from gen_jax.cache import cached
from gen_jax.data.base import SPLITS, Arrays, ExampleSource, Info, cut_arrays
from gen_jax.data.datasets import ExampleSet
from gen_jax.errors import DataError
from gen_jax.settings import Count, Positive, Regex

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


class Config(ExampleSource):
    """Wav files at any depth below a folder, or in a .tar, .tar.gz or .zip archive.

    path: of the folder or the archive.
    label: a regex with one group, searched in a file's name: what the group finds is its class. "" = the folder that a
      file lies in is its class, and there are none where all lie in one.
    length: samples T of every example: longer files are cut at the end, shorter ones padded with silence of mask 0.
    sample_rate: of every file, in Hz; 0 = that of the first, which all must have.
    test_pattern, validation_pattern: regexes searched in a file's name: the files of that split. "" = it is cut from
      the others, by `split_seed`.
    """

    source: Literal["wav_folder"] = "wav_folder"
    path: str
    label: Regex = ""
    length: Positive = 16_000
    sample_rate: Count = 0
    test_pattern: Regex = ""
    validation_pattern: Regex = ""

    @model_validator(mode="after")
    def _one_group(self) -> "Config":
        if self.label and re.compile(self.label).groups != 1:
            raise ValueError(f"label: expected a regular expression with one group, got {self.label!r}")
        return self


def load(cfg: Config, seed: int) -> ExampleSet:
    """The set, with the missing splits cut; `seed` is that of the training order. It lives on the device as int16.

    Channels are averaged. Raises DataError where there is no wav file, one cannot be read or has another rate or no
    class, or a pattern finds nothing.
    """
    path = Path(cfg.path).expanduser()
    if not path.is_dir() and not (path.is_file() and path.name.lower().endswith(ARCHIVES)):
        raise DataError(f"config.data.path: there is no folder or archive ({', '.join(ARCHIVES)}) {path}")
    found = cached(_cache_name(cfg, path), lambda: _read_all(cfg, path))
    names = [str(name) for name in found["names"]]
    classes, label = _classes(cfg, names)
    mask = np.arange(cfg.length) < found["sizes"][:, None]
    arrays = {"audio": found["audio"], "mask": mask.astype(np.float32)}
    if classes:
        arrays["label"] = label
    info = Info("audio", (cfg.length,), len(classes), classes, sample_rate=int(found["rate"]))
    return ExampleSet(info, cut_arrays(_splits(cfg, names, arrays), cfg), seed)


def fit(sound: Int16[np.ndarray, " L"], length: int) -> tuple[Int16[np.ndarray, " T"], int]:
    """A recording cut or padded with silence to T samples, and how many of them are the recording's."""
    fitted = np.zeros(length, np.int16)
    kept = min(len(sound), length)
    fitted[:kept] = sound[:kept]
    return fitted, kept


def _files(path: Path) -> Iterator[tuple[str, Any]]:
    """Names with `/` below the root, and how to read each; in an archive in its order."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() == ".wav" and file.is_file():
                yield file.relative_to(path).as_posix(), file.read_bytes
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.lower().endswith(".wav"):
                    yield name, lambda name=name: archive.read(name)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.lower().endswith(".wav"):
                    yield member.name, lambda member=member: archive.extractfile(member).read()  # pyright: ignore


def _read_all(cfg: Config, path: Path) -> Arrays:
    """Every file, sorted by name."""
    rows, expected = [], cfg.sample_rate
    try:
        for name, read in _files(path):
            sound, rate = _mono(name, read())
            expected = expected or rate
            if rate != expected:
                raise DataError(f"{name}: expected {expected} Hz (config.data.sample_rate), found {rate}; resample it")
            rows.append((name, *fit(sound, cfg.length)))
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"config.data.path: {path} cannot be read: {error}") from None
    if not rows:
        raise DataError(f"config.data.path: no wav files in {path}")
    names, sounds, sizes = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
    return {
        "names": np.array(names),
        "audio": np.stack(sounds),
        "sizes": np.array(sizes, np.int32),
        "rate": np.array(expected),
    }


def _mono(name: str, data: bytes) -> tuple[Int16[np.ndarray, " L"], int]:
    """The mean of the channels, and the sample rate."""
    import soundfile

    try:
        sound, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)  # [L, channels]
    except soundfile.LibsndfileError as error:
        raise DataError(f"{name}: cannot be read as sound: {error}") from None
    return np.round(sound.mean(axis=1)).astype(np.int16), rate


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


def _splits(cfg: Config, names: list[str], arrays: Arrays) -> dict[str, Arrays]:
    patterns = {"validation": cfg.validation_pattern, "test": cfg.test_pattern}
    split = np.full(len(names), "train", object)
    for key, pattern in patterns.items():
        if not pattern:
            continue
        here = np.array([bool(re.search(pattern, PurePosixPath(name).name)) for name in names])
        if not here.any():
            raise DataError(f"config.data.{key}_pattern: {pattern!r} finds no file, such as {names[0]}")
        split[here] = key
    if not (split == "train").any():
        raise DataError("config.data: the patterns leave no file to train on")
    return {key: {k: v[split == key] for k, v in arrays.items()} for key in SPLITS if (split == key).any()}


def _cache_name(cfg: Config, path: Path) -> str:
    """Changes with the files, `length` and `sample_rate`."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    stats = "".join(f"{f} {f.stat().st_size} {f.stat().st_mtime_ns}\n" for f in files)
    digest = hashlib.sha256(f"1 {path.resolve()} {cfg.length} {cfg.sample_rate}\n{stats}".encode()).hexdigest()[:16]
    return f"wav-{path.name.partition('.')[0]}-{digest}"
