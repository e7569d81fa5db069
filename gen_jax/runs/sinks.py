"""What a run logs to, by the names of `config.log.writers`: TensorBoard, a CSV file, Weights & Biases."""

import html
import importlib
import io
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gen_jax.errors import ConfigError
from gen_jax.io.disk import is_remote, write_atomic, writing
from gen_jax.runs import manifest
from gen_jax.runs.run_dir import RunDir
from gen_jax.runs.tensorboard import TensorBoard


@runtime_checkable
class Sink(Protocol):
    """Where `Writer` passes on what it is given. What a sink cannot show, it leaves out."""

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None: ...
    def write_images(self, step: int, tag: str, pngs: list[bytes], size: tuple[int, int]) -> None: ...
    def write_texts(self, step: int, texts: Mapping[str, str]) -> None: ...
    def write_histogram(self, step: int, tag: str, counts: np.ndarray, edges: np.ndarray) -> None: ...
    def write_audios(self, step: int, tag: str, wavs: list[bytes]) -> None: ...
    def write_hparams(self, hparams: Mapping[str, bool | int | float | str]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class Csv:
    """metrics.csv: a line `step,tag,value` for each scalar and timing. Lines from `purge_step` on are dropped."""

    def __init__(self, run: RunDir, purge_step: int | None):
        if is_remote(run.path):
            raise ConfigError(f"config.log.writers: csv: expected a local workdir, got {run.path}")
        self._path = run.path / "metrics.csv"
        lines = self._path.read_text().splitlines()[1:] if self._path.exists() else []
        kept = [line for line in lines if purge_step is None or int(line.partition(",")[0]) < purge_step]
        write_atomic(self._path, "\n".join(["step,tag,value", *kept, ""]).encode())
        with writing(self._path):
            self._file = open(self._path, "a")  # noqa: SIM115 - `close` closes it

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        lines = [f"{step},{_quoted(tag)},{float(value)!r}\n" for tag, value in scalars.items()]
        with writing(self._path):
            self._file.writelines(lines)

    def write_images(self, step: int, tag: str, pngs: list[bytes], size: tuple[int, int]) -> None: ...
    def write_texts(self, step: int, texts: Mapping[str, str]) -> None: ...
    def write_histogram(self, step: int, tag: str, counts: np.ndarray, edges: np.ndarray) -> None: ...
    def write_audios(self, step: int, tag: str, wavs: list[bytes]) -> None: ...
    def write_hparams(self, hparams: Mapping[str, bool | int | float | str]) -> None: ...

    def flush(self) -> None:
        with writing(self._path):
            self._file.flush()

    def close(self) -> None:
        with writing(self._path):
            self._file.close()


def _quoted(tag: str) -> str:
    """A tag's facts after its `@` may hold commas."""
    return f'"{tag}"' if "," in tag else tag


class Wandb:
    """A run of Weights & Biases, named after the run directory; the same id when the run is resumed."""

    def __init__(self, run: RunDir, purge_step: int | None):
        try:
            self._wandb = importlib.import_module("wandb")
        except ImportError:
            raise ConfigError("config.log.writers: wandb: not installed, run: pip install wandb") from None
        own = manifest.run_id(run.path / "manifest.json") or None
        folder = None if is_remote(run.path) else str(run.path)
        self._run = self._wandb.init(
            project="gen_jax", name=run.path.name, id=own, resume="allow", dir=folder, reinit="create_new"
        )

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._run.log({tag: float(value) for tag, value in scalars.items()}, step=int(step))

    def write_images(self, step: int, tag: str, pngs: list[bytes], size: tuple[int, int]) -> None:
        from PIL import Image

        images = [self._wandb.Image(Image.open(io.BytesIO(png))) for png in pngs]
        self._run.log({tag: images}, step=int(step))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._run.log(
            {tag: self._wandb.Html(f"<pre>{html.escape(text)}</pre>") for tag, text in texts.items()}, step=int(step)
        )

    def write_histogram(self, step: int, tag: str, counts: np.ndarray, edges: np.ndarray) -> None:
        self._run.log({tag: self._wandb.Histogram(np_histogram=(counts, edges))}, step=int(step))

    def write_audios(self, step: int, tag: str, wavs: list[bytes]) -> None: ...

    def write_hparams(self, hparams: Mapping[str, bool | int | float | str]) -> None:
        self._run.config.update(dict(hparams), allow_val_change=True)

    def flush(self) -> None: ...

    def close(self) -> None:
        self._run.finish()


SINKS = {"tensorboard": TensorBoard, "csv": Csv, "wandb": Wandb}


def make(name: str, run: RunDir, purge_step: int | None) -> Sink:
    """The sink of that name, one of `SINKS`."""
    return SINKS[name](run, purge_step)
