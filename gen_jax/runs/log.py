"""One writer for everything a run logs: TensorBoard, metrics.jsonl, perf.jsonl and pictures.

Its methods have the names of `clu.metric_writers`, which imports TensorFlow; this one needs TensorBoard alone.
"""

# pyright: reportAttributeAccessIssue=false
# protobuf makes the names of its messages at run time

import io
import json
import math
import os
import shlex
import sys
import wave
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.audio import metadata as audio_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import summary_v2 as hparams_summary
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util import tensor_util

from gen_jax.io.disk import is_remote, write_atomic, writing
from gen_jax.parallel.processes import is_primary
from gen_jax.runs.events import EventFile
from gen_jax.runs.resume import flatten
from gen_jax.runs.run_dir import RunDir

HISTOGRAM_BUCKETS = 30


class Writer:
    """Logs a run. Only process 0 writes; in the others every method does nothing.

    A row of metrics.jsonl holds all scalars of one step and nothing that depends on the clock. It is written, whole and
    synced to disk, by `end_step` (before the checkpoint of that step is saved), or when another step begins. A row that
    is not ended when the run ends is not written.

    Args:
      run: the run directory, or its path; on `gs://` within its `spooled`.
      purge_step: TensorBoard forgets earlier events of this step and later ones: the restored step + 1, or 0 in a new
        run. None = it forgets nothing: for an evaluation beside a run.
    """

    def __init__(self, run: RunDir | epath.PathLike, purge_step: int | None = 0):
        run = run if isinstance(run, RunDir) else RunDir(run)
        self._samples = run.samples
        self._row: dict[str, Any] = {}
        self._events = None
        if not is_primary():
            return
        with writing(self._samples):
            self._samples.mkdir(parents=True, exist_ok=True)
        self._metrics, self._perf = _Lines(run.metrics), _Lines(run.perf)
        self._events = EventFile(run.tb, run.path / "tb")
        if purge_step is not None:
            self._events.add(step=purge_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Deterministic values only: TensorBoard, and the row of this step in metrics.jsonl (null = not finite)."""
        if self._row and self._row["step"] != step:
            self.end_step(self._row["step"])
        self._row = {"step": int(step), **self._row, **{tag: _number(value) for tag, value in scalars.items()}}
        self._write_scalar_events(step, scalars)

    def end_step(self, step: int) -> None:
        """The row of `step` is complete: appends it. Nothing where it holds nothing."""
        if self._events and self._row.get("step") == step:
            self._metrics.append(self._row)
        if self._row.get("step") == step:
            self._row = {}
        self.flush()

    def write_perf(self, step: int, values: Mapping[str, Any]) -> None:
        """Timings and throughput: perf.jsonl, and TensorBoard under `perf/`."""
        if self._events:
            self._perf.append({"step": int(step), **{tag: _number(value) for tag, value in values.items()}})
        self._write_scalar_events(step, {f"perf/{tag}": value for tag, value in values.items()})

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """uint8 [H, W, C] or [N, H, W, C] with C = 1 or 3: TensorBoard, and PNG files in samples/."""
        meta = image_metadata.create_summary_metadata("", "")
        for tag, array in images.items() if self._events else ():
            array = np.asarray(array)
            if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] not in (1, 3):
                raise ValueError(f"{tag}: expected uint8 [H, W, 1 or 3], found {array.dtype} {list(array.shape)}")
            batch = array.reshape(-1, *array.shape[-3:])
            pngs = [_png(image) for image in batch]
            for i, png in enumerate(pngs):
                part = f"_{i}" if array.ndim == 4 else ""
                write_atomic(self._samples / f"{tag.replace('/', '_')}_{step:08d}{part}.png", png)
            size = [str(n).encode() for n in (batch.shape[2], batch.shape[1])]
            self._tensor(step, tag, np.array(size + pngs, object), meta, summary_pb2.DATA_CLASS_BLOB_SEQUENCE)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Markdown."""
        meta = text_metadata.create_summary_metadata("", "")
        for tag, text in texts.items():
            self._tensor(step, tag, np.array(text.encode(), object), meta, summary_pb2.DATA_CLASS_TENSOR)

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        """Numbers of any shape; values that are not finite are left out."""
        meta = histogram_metadata.create_summary_metadata("", "")
        for tag, array in arrays.items() if self._events else ():
            values = np.asarray(array, np.float64).ravel()
            buckets = (num_buckets or {}).get(tag, HISTOGRAM_BUCKETS)
            counts, edges = np.histogram(values[np.isfinite(values)], bins=buckets)
            rows = np.stack([edges[:-1], edges[1:], counts], axis=1)  # [buckets, 3]: left, right, count
            self._tensor(step, tag, rows, meta, summary_pb2.DATA_CLASS_TENSOR)

    def write_audios(self, step: int, audios: Mapping[str, Any], *, sample_rate: int) -> None:
        """float [N, T, channels] or [T, channels] in [-1, 1], as 16-bit WAV: TensorBoard, and files in samples/."""
        meta = audio_metadata.create_summary_metadata("", "", audio_metadata.Encoding.Value("WAV"))
        for tag, array in audios.items() if self._events else ():
            array = np.asarray(array, np.float64)
            wavs = [wav(audio, sample_rate) for audio in array.reshape(-1, *array.shape[-2:])]
            for i, file in enumerate(wavs):
                part = f"_{i}" if array.ndim == 3 else ""
                write_atomic(self._samples / f"{tag.replace('/', '_')}_{step:08d}{part}.wav", file)
            pairs = np.array([[file, b""] for file in wavs], object)  # [N, 2]: sound, label
            self._tensor(step, tag, pairs, meta, summary_pb2.DATA_CLASS_BLOB_SEQUENCE)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """The config, nested or flat: one line of TensorBoard's HPARAMS tab, with the last value of each scalar.

        Its columns are those of `write_hparams_columns`; without any, TensorBoard shows what differs first.
        """
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in flatten(hparams).items()}
        self._summary(0, hparams_summary.hparams_pb(plain))

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flush(self) -> None:
        """All events reach their file."""
        if self._events:
            self._events.flush()

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        if self._events:
            self._events.close()
            self._events = None

    def _write_scalar_events(self, step: int, scalars: Mapping[str, Any]) -> None:
        meta = scalar_metadata.create_summary_metadata("", "")
        for tag, value in scalars.items():
            self._tensor(step, tag, np.float32(value), meta, summary_pb2.DATA_CLASS_SCALAR)

    def _tensor(self, step: int, tag: str, value: Any, meta: Any, data_class: int) -> None:
        if self._events:
            meta.data_class = data_class
            tensor = tensor_util.make_tensor_proto(value)
            self._summary(step, summary_pb2.Summary(value=[{"tag": tag, "tensor": tensor, "metadata": meta}]))

    def _summary(self, step: int, summary: Any) -> None:
        if self._events:
            self._events.add(step=int(step), summary=summary)


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


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "png")
    return file.getvalue()


def wav(audio: np.ndarray, sample_rate: int) -> bytes:
    """A 16-bit WAV file of float [T, channels] in [-1, 1]."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(audio.shape[1])
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(np.round(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def tensorboard_command(logdir: str) -> str:
    """What shows a run, or a folder of runs, in TensorBoard; of this environment, as a shell reads it."""
    program = os.path.relpath(os.path.join(os.path.dirname(sys.executable), "tensorboard"))
    # what TensorBoard would read gs:// with by itself does not know gcsfs's credentials
    return shlex.join([program, f"--logdir={logdir}", *["--load_fast=false"] * is_remote(logdir)])


def write_hparams_columns(folder: epath.Path, hparams: Iterable[str], metrics: Iterable[str]) -> None:
    """The columns of TensorBoard's HPARAMS tab, for all runs beside or under `folder`; replaces those it holds."""
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    columns = hparams_summary.hparams_config_pb(
        map(hparams_summary.HParam, hparams), map(hparams_summary.Metric, metrics)
    )
    events = EventFile(folder)
    events.add(summary=columns)
    events.close()
