"""Small recordings on disk, as a source reads them."""

import numpy as np
import pytest
import soundfile

from gen_jax import data

RATE = 8000


def load(**section):
    return data.load(data.parse(section), seed=0)


def sound(length, seed=0, channels=1):
    return np.random.default_rng(seed).integers(-9000, 9000, (length, channels)).astype(np.int16)


@pytest.fixture
def folder(tmp_path):
    """10 recordings of 0 and 1 by two speakers, in sub-folders by speaker."""
    for i in range(10):
        path = tmp_path / "wavs" / f"speaker{i % 2}" / f"{i // 5}_s{i % 2}_{i % 5}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound(20 + 3 * i, seed=i), RATE, subtype="PCM_16")
    return tmp_path / "wavs"


def section(folder, **fields):
    return dict(source="wav_folder", path=str(folder), length=32, validation=0.25) | fields
