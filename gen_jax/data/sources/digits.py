"""Real handwritten digits, 1,797 of 8x8 pixels, 10 classes: they come with scikit-learn, so nothing is downloaded."""

import gzip
import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np

from gen_jax.data.datasets import ExampleSet
from gen_jax.data.source import ExampleSource, Info, cut_arrays
from gen_jax.errors import DataError
from gen_jax.settings import Positive

EXAMPLES = 1797


class Config(ExampleSource):
    """The handwritten digits of scikit-learn."""

    source: Literal["digits"] = "digits"
    size: Positive = 8
    """Pixels a side; other than 8, images are resized."""

    @property
    def drawn_bytes(self) -> int:
        return EXAMPLES * self.size**2


def read() -> tuple[np.ndarray, np.ndarray]:
    """uint8 images [1797, 8, 8, 1] and int32 labels [1797]. Raises DataError if scikit-learn is not installed."""
    spec = importlib.util.find_spec("sklearn")  # importing it would take two seconds
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz" if spec and spec.origin else None
    if file is None or not file.exists():
        raise DataError("digits: not found, run: pip install scikit-learn")
    table = np.fromstring(gzip.decompress(file.read_bytes()).decode().replace("\n", ","), np.float32, sep=",")
    table = table.reshape(-1, 65)
    image = np.round(table[:, :64] * (255 / 16)).astype(np.uint8)  # grey levels are 0 to 16
    return image.reshape(-1, 8, 8, 1), table[:, 64].astype(np.int32)


def load(cfg: Config, seed: int) -> ExampleSet:
    """The set, cut into splits; `seed` is that of the training order."""
    image, label = read()
    if cfg.size != 8:
        from gen_jax.data.pixels import resize

        image = np.stack([resize(one, cfg.size) for one in image])
    info = Info("image", (cfg.size, cfg.size, 1), 10, tuple("0123456789"))
    return ExampleSet(info, cut_arrays({"train": {"image": image, "label": label}}, cfg), seed)
