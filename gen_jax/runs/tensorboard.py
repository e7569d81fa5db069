"""TensorBoard as a sink of `gen_jax.runs.log.Writer`, and what else is written for it."""

# pyright: reportAttributeAccessIssue=false
# protobuf makes the names of its messages at run time

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.audio import metadata as audio_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import summary_v2 as hparams_summary
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util import tensor_util

from gen_jax.io.disk import is_remote
from gen_jax.runs.events import EventFile
from gen_jax.runs.run_dir import RunDir


class TensorBoard:
    """Event files in the run directory. The arguments are those of `gen_jax.runs.log.Writer`."""

    def __init__(self, run: RunDir, purge_step: int | None):
        self._events = EventFile(run.events, run.path)
        if purge_step is not None:
            self._events.add(step=purge_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        meta = scalar_metadata.create_summary_metadata("", "")
        for tag, value in scalars.items():
            self._tensor(step, tag, np.float32(value), meta, summary_pb2.DATA_CLASS_SCALAR)

    def write_images(self, step: int, tag: str, pngs: list[bytes], size: tuple[int, int]) -> None:
        meta = image_metadata.create_summary_metadata("", "")
        sides = [str(n).encode() for n in size]  # width, height
        self._tensor(step, tag, np.array(sides + pngs, object), meta, summary_pb2.DATA_CLASS_BLOB_SEQUENCE)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        meta = text_metadata.create_summary_metadata("", "")
        for tag, text in texts.items():
            self._tensor(step, tag, np.array(text.encode(), object), meta, summary_pb2.DATA_CLASS_TENSOR)

    def write_histogram(self, step: int, tag: str, counts: np.ndarray, edges: np.ndarray) -> None:
        meta = histogram_metadata.create_summary_metadata("", "")
        rows = np.stack([edges[:-1], edges[1:], counts], axis=1)  # [buckets, 3]: left, right, count
        self._tensor(step, tag, rows, meta, summary_pb2.DATA_CLASS_TENSOR)

    def write_audios(self, step: int, tag: str, wavs: list[bytes]) -> None:
        meta = audio_metadata.create_summary_metadata("", "", audio_metadata.Encoding.Value("WAV"))
        pairs = np.array([[file, b""] for file in wavs], object)  # [N, 2]: sound, label
        self._tensor(step, tag, pairs, meta, summary_pb2.DATA_CLASS_BLOB_SEQUENCE)

    def write_hparams(self, hparams: Mapping[str, bool | int | float | str]) -> None:
        self._events.add(step=0, summary=hparams_summary.hparams_pb(dict(hparams)))

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _tensor(self, step: int, tag: str, value: Any, meta: Any, data_class: int) -> None:
        meta.data_class = data_class
        tensor = tensor_util.make_tensor_proto(value)
        summary = summary_pb2.Summary(value=[{"tag": tag, "tensor": tensor, "metadata": meta}])
        self._events.add(step=int(step), summary=summary)


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
