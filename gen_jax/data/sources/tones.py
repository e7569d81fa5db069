"""Decaying tones, one class a pitch: sound that needs no files, made from the seed of the splits."""

from typing import Literal

import numpy as np

from gen_jax.data.datasets import ExampleSet
from gen_jax.data.source import ExampleSource, Info, cut_arrays
from gen_jax.settings import Positive


class Config(ExampleSource):
    """Pure tones; the pitch is the class."""

    source: Literal["tones"] = "tones"
    pitches: Positive = 8
    """Classes, a whole tone apart from 220 Hz up."""
    length: Positive = 1024
    """Samples T."""
    sample_rate: Positive = 8000
    """In Hz."""
    examples: Positive = 1000
    """In all splits together."""

    @property
    def drawn_bytes(self) -> int:
        return 8 * 3 * self.examples * self.length


def load(cfg: Config, seed: int) -> ExampleSet:
    """Tones with two overtones, random phase, loudness and decay, and a little noise; `seed` is of the training order.

    A tone lasts for half of the T samples at least; after its end the sound is silent and the mask is 0.
    """
    rng = np.random.default_rng([cfg.split_seed, cfg.pitches])
    label = rng.integers(0, cfg.pitches, cfg.examples).astype(np.int32)
    draw = {name: rng.random((cfg.examples, 1)) for name in ("phase", "loudness", "decay", "size")}
    seconds = np.arange(cfg.length) / cfg.sample_rate  # [T]
    turns = 220 * 2 ** (label[:, None] / 6) * seconds + draw["phase"]  # [N, T]
    overtones = np.arange(1, 4)[:, None, None]
    tone = (np.sin(2 * np.pi * overtones * turns) / overtones**2).sum(axis=0) / 1.5
    envelope = (0.2 + 0.6 * draw["loudness"]) * np.exp(-(5 + 20 * draw["decay"]) * seconds)
    sound = envelope * tone + 0.003 * rng.standard_normal(tone.shape)
    mask = (np.arange(cfg.length) < np.ceil(cfg.length * (1 + draw["size"]) / 2)).astype(np.float32)
    audio = np.round(32767 * np.clip(sound, -1, 1) * mask).astype(np.int16)
    names = tuple(f"{220 * 2 ** (i / 6):.0f} Hz" for i in range(cfg.pitches))
    info = Info("audio", (cfg.length,), cfg.pitches, names, sample_rate=cfg.sample_rate)
    return ExampleSet(info, cut_arrays({"train": {"audio": audio, "mask": mask, "label": label}}, cfg), seed)
