"""A toy translation: digits into English words, backwards (`4 0 7` is `seven zero four`)."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from gen_jax.data.pair_sets import PairSet, PairSource, Vocabulary, pair_set
from gen_jax.data.sources.pairs import with_cuts
from gen_jax.settings import Positive, Whole

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHORTEST = 3


class Config(PairSource):
    """Numbers and their digits in reverse."""

    source: Literal["reversal"] = "reversal"
    vocab_size: Vocabulary = 300
    """Vocabulary of the BPE."""
    context: Positive = 32
    """Positions of a row, for sources and for targets."""
    pairs: Positive = 10_000
    """Drawn for all splits together; duplicates are kept once."""
    longest: Annotated[Whole, Field(ge=SHORTEST)] = 8
    """Digits in one, at least 3."""

    @property
    def drawn_bytes(self) -> int:
        return self.pairs * (600 + 32 * self.longest)  # Python's strings, lists and dict are most of it


def translate(source: str) -> str:
    """The only right answer."""
    return " ".join(WORDS[int(digit)] for digit in reversed(source.split()))


def load(cfg: Config, seed: int) -> PairSet:
    """The set: the same for all seeds, which pick the training order; no source is in two splits."""
    rng = np.random.default_rng(cfg.split_seed)
    sources: dict[str, None] = {}
    for length, digits in zip(
        rng.integers(SHORTEST, cfg.longest + 1, cfg.pairs).tolist(),
        rng.integers(0, 10, (cfg.pairs, cfg.longest)).tolist(),
        strict=True,
    ):
        sources[" ".join(map(str, digits[:length]))] = None
    return pair_set(with_cuts({"train": (list(sources), [translate(one) for one in sources])}, cfg), cfg, seed)
