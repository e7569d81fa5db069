"""Drawn pictures of coloured shapes with captions; the captions of a split are in no other."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from gen_jax.core import drawings
from gen_jax.data.datasets import ExampleSet
from gen_jax.data.source import Arrays, ExampleSource, Info, cut
from gen_jax.settings import Positive, Whole
from gen_jax.text import WordTokenizer

LARGEST = 256
SHOWN = 64  # captions in `Info`


class Config(ExampleSource):
    """Pictures of scenes (`core.drawings`). `validation` and `test` are shares of all captions, by `split_seed`."""

    source: Literal["shapes"] = "shapes"
    size: Annotated[Whole, Field(ge=drawings.SMALLEST, le=LARGEST)] = 24
    """Pixels a side."""
    examples: Positive = 20_000
    """Drawn for all splits together, for each in the share of its captions."""

    @property
    def drawn_bytes(self) -> int:
        return self.examples * 3 * self.size**2


def load(cfg: Config, seed: int) -> ExampleSet:
    """The set: the same for all seeds, which pick the training order.

    A batch holds `image` and `caption` int32 [B, S], the ids of its words, padded with 0. Half of the pictures of a
    split show a group, half a relation.
    """
    scenes = list(drawings.scenes().values())
    tokenizer = WordTokenizer(drawings.words())
    ids = [tokenizer.encode(scene.caption) for scene in scenes]
    captions = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, words in zip(captions, ids, strict=True):
        row[: len(words)] = words
    alone = np.array([len(scene.groups) == 1 for scene in scenes])
    arrays: dict[str, Arrays] = {}
    for number, (split, found) in enumerate(cut(len(scenes), cfg, ("validation", "test")).items()):
        rng = np.random.default_rng([cfg.split_seed, number])
        n = max(1, round(cfg.examples * len(found) / len(scenes)))
        kinds = [part for part in (found[alone[found]], found[~alone[found]]) if len(part)]
        which = np.choose(rng.integers(0, len(kinds), n), [rng.choice(part, n) for part in kinds])
        image = np.stack([drawings.draw(scenes[i], cfg.size, rng) for i in which])
        arrays[split] = {"image": image, "caption": captions[which]}
    shown = arrays.get("test", arrays["train"])["caption"][:SHOWN]
    info = Info(
        "image",
        (cfg.size, cfg.size, 3),
        vocab_size=tokenizer.vocab_size,
        captions=tuple(map(tuple, shown.tolist())),
    )
    return ExampleSet(info, arrays, seed, tokenizer=tokenizer)
