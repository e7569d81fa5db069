"""One writer for everything a run logs: metrics.jsonl, perf.jsonl, pictures, and the sinks of `config.log.writers`.

Its methods have the names of `clu.metric_writers`, which imports TensorFlow; this one does not.
"""

import io
import json
import math
import os
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from gen_jax.io.disk import write_atomic, writing
from gen_jax.parallel.processes import is_primary
from gen_jax.runs import plots, sinks
from gen_jax.runs.resume import flatten
from gen_jax.runs.run_dir import RunDir

HISTOGRAM_BUCKETS = 30
SPEED = "wall/"  # before the tags of timings: sorted after test/, train/ and val/, so that losses come first


class Writer:
    """Logs a run. Only process 0 writes; in the others every method does nothing.

    A row of metrics.jsonl holds all scalars of one step and nothing that depends on the clock. It is written, whole and
    synced to disk, by `end_step` (before the checkpoint of that step is saved), or when another step begins. A row that
    is not ended when the run ends is not written.

    Args:
      run: the run directory, or its path; on `gs://` within its `spooled`.
      purge_step: the sinks forget earlier events of this step and later ones: the restored step + 1, or 0 in a new
        run. None = they forget nothing: for an evaluation beside a run.
      writers: names of `sinks.SINKS`, and `jsonl`, which is always written.

    Raises:
      ConfigError: a writer needs a package that is not installed, or a local run directory.
    """

    def __init__(
        self, run: RunDir | epath.PathLike, purge_step: int | None = 0, writers: Sequence[str] = ("tensorboard",)
    ):
        run = run if isinstance(run, RunDir) else RunDir(run)
        self._samples = run.samples
        self._row: dict[str, Any] = {}
        self._sinks: list[sinks.Sink] = []
        self._writes = is_primary()
        if not self._writes:
            return
        with writing(self._samples):
            self._samples.mkdir(parents=True, exist_ok=True)
        self._metrics, self._perf = _Lines(run.metrics), _Lines(run.perf)
        self._sinks = [sinks.make(name, run, purge_step) for name in writers if name != "jsonl"]

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Deterministic values only: the sinks, and the row of this step in metrics.jsonl (null = not finite)."""
        if self._row and self._row["step"] != step:
            self.end_step(self._row["step"])
        self._row = {"step": int(step), **self._row, **{tag: _number(value) for tag, value in scalars.items()}}
        for sink in self._sinks:
            sink.write_scalars(step, scalars)

    def end_step(self, step: int) -> None:
        """The row of `step` is complete: appends it. Nothing where it holds nothing."""
        if self._writes and self._row.get("step") == step:
            self._metrics.append(self._row)
        if self._row.get("step") == step:
            self._row = {}
        self.flush()

    def write_perf(self, step: int, values: Mapping[str, Any]) -> None:
        """Timings and throughput: perf.jsonl, and the sinks under `wall/`."""
        if self._writes:
            self._perf.append({"step": int(step), **{tag: _number(value) for tag, value in values.items()}})
        for sink in self._sinks:
            sink.write_scalars(step, {f"{SPEED}{tag}": value for tag, value in values.items()})

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """uint8 [H, W, C] or [N, H, W, C] with C = 1 or 3: PNG files in samples/, and the sinks."""
        for tag, array in images.items() if self._writes else ():
            array = np.asarray(array)
            if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] not in (1, 3):
                raise ValueError(f"{tag}: expected uint8 [H, W, 1 or 3], found {array.dtype} {list(array.shape)}")
            batch = array.reshape(-1, *array.shape[-3:])
            pngs = [plots.png(image) for image in batch]
            for i, png in enumerate(pngs):
                part = f"_{i}" if array.ndim == 4 else ""
                write_atomic(self._samples / f"{tag.replace('/', '_')}_{step:08d}{part}.png", png)
            for sink in self._sinks:
                sink.write_images(step, tag, pngs, (batch.shape[2], batch.shape[1]))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Markdown."""
        for sink in self._sinks:
            sink.write_texts(step, texts)

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        """Numbers of any shape; values that are not finite are left out."""
        for tag, array in arrays.items() if self._sinks else ():
            values = np.asarray(array, np.float64).ravel()
            buckets = (num_buckets or {}).get(tag, HISTOGRAM_BUCKETS)
            counts, edges = np.histogram(values[np.isfinite(values)], bins=buckets)
            for sink in self._sinks:
                sink.write_histogram(step, tag, counts, edges)

    def write_audios(self, step: int, audios: Mapping[str, Any], *, sample_rate: int) -> None:
        """float [N, T, channels] or [T, channels] in [-1, 1], as 16-bit WAV: files in samples/, and the sinks."""
        for tag, array in audios.items() if self._writes else ():
            array = np.asarray(array, np.float64)
            wavs = [wav(audio, sample_rate) for audio in array.reshape(-1, *array.shape[-2:])]
            for i, file in enumerate(wavs):
                part = f"_{i}" if array.ndim == 3 else ""
                write_atomic(self._samples / f"{tag.replace('/', '_')}_{step:08d}{part}.wav", file)
            for sink in self._sinks:
                sink.write_audios(step, tag, wavs)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """The config, nested or flat. In TensorBoard it is one line of HPARAMS, with the last value of each scalar.

        Its columns are those of `tensorboard.write_hparams_columns`; without any, TensorBoard shows what differs first.
        """
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in flatten(hparams).items()}
        for sink in self._sinks:
            sink.write_hparams(plain)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flush(self) -> None:
        """All that was written reaches its file."""
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        for sink in self._sinks:
            sink.close()
        self._sinks, self._writes = [], False


class _Lines:
    """A JSON-lines file; each append is on disk when it returns."""

    def __init__(self, path: epath.Path):
        self._path = path

    def append(self, row: dict[str, Any]) -> None:
        line = json.dumps(row, allow_nan=False) + "\n"
        with writing(self._path, len(line)), open(self._path, "a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _number(value: Any) -> int | float | None:
    value = np.asarray(value).item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def wav(audio: np.ndarray, sample_rate: int) -> bytes:
    """A 16-bit WAV file of float [T, channels] in [-1, 1]."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(audio.shape[1])
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(np.round(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()
