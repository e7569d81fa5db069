"""The two shapes of a data set: examples (images, vectors) and text."""

import dataclasses

import numpy as np

from gen_jax.data import feeds
from gen_jax.data.source import Arrays, Feed, Info, Tokenizer
from gen_jax.errors import ConfigError


def has_split(split: str, sizes: dict[str, int], key: str = "split") -> list[str]:
    """The parts of `split`: itself, or several as TFDS joins them (`validation+test`), each once.

    Raises ConfigError, which starts with `key`, where a part is not in `sizes` or empty, or comes twice.
    """
    parts = [part.strip() for part in split.split("+")]
    if len(set(parts)) < len(parts) or not all(sizes.get(part) for part in parts):
        several = " or several joined by +" if len(parts) > 1 else ""
        raise ConfigError(f"{key}: expected one of {', '.join(sizes)}{several}, found {split!r}")
    return parts


@dataclasses.dataclass(frozen=True)
class ExampleSet:
    """Images or vectors.

    Args:
      arrays: split -> arrays [N, ...] that live on the device.
      seed: of the training order.
      fetch: split -> reader of what does not; `lengths` gives each split's N.
      tokenizer: of the captions of images; None where there are none.
      marks: split -> a hash of what it was read from, where there is one (`data.fingerprint`).
    """

    info: Info
    arrays: dict[str, Arrays]
    seed: int
    fetch: dict[str, feeds.Fetch] = dataclasses.field(default_factory=dict)
    lengths: dict[str, int] = dataclasses.field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    marks: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Examples in each split."""
        return self.lengths or {split: len(next(iter(arrays.values()))) for split, arrays in self.arrays.items()}

    def contents(self, split: str) -> Arrays:
        """The arrays of a split."""
        return self.arrays.get(split, {})

    def train_feed(self, batch_size: int) -> Feed:
        """Endless; epoch e follows a permutation by (seed, e), and a batch may straddle two epochs."""
        return self._feed("train", batch_size, self.seed)

    def eval_feed(self, split: str, batch_size: int) -> Feed:
        """Every example once, in order. Raises ConfigError if there is no such split.

        Splits joined by `+` follow each other, where they live on the device.
        """
        parts = has_split(split, self.sizes)
        if len(parts) == 1:
            return self._feed(parts[0], batch_size, None)
        if any(part in self.fetch for part in parts):
            raise ConfigError(f"split: expected one of {', '.join(self.sizes)}, not several, of a set that is streamed")
        names = self.arrays[parts[0]]
        arrays = {name: np.concatenate([self.arrays[part][name] for part in parts]) for name in names}
        return feeds.Examples(arrays, sum(self.sizes[part] for part in parts), batch_size, None)

    def _feed(self, split: str, batch_size: int, seed: int | None) -> Feed:
        has_split(split, self.sizes)
        fetch = self.fetch.get(split)
        return feeds.Examples(self.arrays.get(split, {}), self.sizes[split], batch_size, seed, fetch)

    def with_arrays(self, extra: dict[str, Arrays]) -> "ExampleSet":
        """Adds arrays [N, ...] to splits, in the order of the split; batches hold their rows."""
        for split, arrays in extra.items():
            has_split(split, self.sizes)
            for name, array in arrays.items():
                if len(array) != self.sizes[split]:
                    raise ValueError(f"{name}: expected {self.sizes[split]} rows for {split}, found {len(array)}")
        arrays = {split: self.arrays.get(split, {}) | extra.get(split, {}) for split in self.sizes}
        return dataclasses.replace(self, arrays=arrays)

    def with_seed(self, seed: int) -> "ExampleSet":
        """The same examples in another training order."""
        return dataclasses.replace(self, seed=seed)


@dataclasses.dataclass(frozen=True)
class TokenSet:
    """Text, one flat array of tokens a split.

    Args:
      tokens: split -> [L] uint8, uint16 or int32.
      order, context: as `TokenSource` says.
      resident: the tokens are put on the device; else windows are read on the host.
    """

    info: Info
    tokens: dict[str, np.ndarray]
    seed: int
    order: str
    tokenizer: Tokenizer | None = None
    resident: bool = True

    @property
    def context(self) -> int:
        return self.info.shape[0] - 1

    @property
    def sizes(self) -> dict[str, int]:
        """Tokens in each split."""
        return {split: len(tokens) for split, tokens in self.tokens.items()}

    def contents(self, split: str) -> Arrays:
        """The arrays of a split."""
        return {"tokens": self.tokens[split]}

    def train_feed(self, batch_size: int) -> Feed:
        """Endless, in the source's order. Raises ConfigError if the text is too short for the context."""
        resident = {"tokens": self.tokens["train"]}
        if self.order == "streams":
            return self._placed(feeds.Streams(resident, batch_size, self.context))
        order = {"windows": feeds.Windows, "permuted": feeds.PermutedWindows}[self.order]
        return self._placed(order(resident, batch_size, self.context, seed=self.seed))

    def _placed(self, feed: feeds.Tokens) -> Feed:
        return feed if self.resident else feeds.HostTokens(feed)

    def eval_feed(self, split: str, batch_size: int) -> Feed:
        """Every target once, row b on its own stretch. Raises ConfigError if there is no such split.

        Splits joined by `+` are one text, with nothing between them, where they live on the device.
        """
        parts = [self.tokens[part] for part in has_split(split, self.sizes)]
        if len(parts) > 1 and not self.resident:
            raise ConfigError(f"split: expected one of {', '.join(self.sizes)}, not several, of a set that is streamed")
        tokens = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return self._placed(feeds.EvalTokens({"tokens": tokens}, batch_size, self.context))

    def with_arrays(self, extra: dict[str, Arrays]) -> "TokenSet":
        raise ConfigError("data: arrays for each example can be added to images and vectors, not to text")

    def with_seed(self, seed: int) -> "TokenSet":
        """The same text in another training order."""
        return dataclasses.replace(self, seed=seed)
