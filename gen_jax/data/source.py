"""What every source declares and what the training loop may ask of a data set.

Data is a pure function of (seed, step): no iterator has a state, so nothing needs saving, and any number of hosts
see the same global batch and each takes its slice.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import pydantic
from pydantic import Field

from gen_jax.core.info import Info
from gen_jax.errors import ConfigError, DataError
from gen_jax.settings import LARGEST_VOCABULARY, Count, Number, Positive, Settings, UserPath

SPLITS = ("train", "validation", "test")
Arrays = dict[str, np.ndarray]
Share = Annotated[Number, Field(ge=0, lt=1)]


class Source(Settings):
    """Fields that every source has."""

    source: str
    """The file in `data/sources`, a dotted path, or a file of your own."""
    validation: Share = 0.1
    """The share of the training examples that is cut off where the set has no validation split."""
    test: Share = 0.1
    """The share of the training examples that is cut off where the set has no test split."""
    split_seed: Count = 0
    """Picks which examples. It is not the run's seed, so that runs with several seeds share their test set."""

    @property
    def drawn_bytes(self) -> int:
        """At least what drawing the set takes on the host; 0 for one that is read."""
        return 0


class ExampleSource(Source):
    """Images or vectors, seen in a new permutation each epoch."""

    order: Literal["permuted"] = "permuted"
    """Always a new permutation each epoch."""


class TokenSource(Source):
    """Text."""

    order: Literal["permuted", "windows", "streams"] = "windows"
    """`windows` start anywhere; `streams` continue where the row stopped a step before; `permuted` are windows side by
    side, each once an epoch."""
    context: Positive = 128
    """T, the tokens that are read and predicted at once."""
    tokenizer: Literal["byte", "char", "bpe"] = "byte"
    """`byte` takes any text, `char` knows the characters of this one, `bpe` merges frequent strings of bytes of the
    training split."""
    vocab_size: Annotated[Count, Field(le=LARGEST_VOCABULARY)] = 0
    """Vocabulary of `bpe`; a short text may have fewer tokens. 0 for the others."""
    tokenizer_file: UserPath = ""
    """A saved tokeniser of any kind (a run's tokenizer.json), used instead of `tokenizer`."""
    documents: Literal["joined", "packed", "lines"] = "joined"
    """`joined` by an empty line, or `packed` with an end-of-text token before each, or `lines`.

    The end-of-text token is the tokeniser's own where it has one, else one more, whose id is the plain tokeniser's
    vocabulary size. `lines`: each line is a record of its own (`data.records`), between two end tokens, in a row of its
    own; its order is `permuted`.
    """

    @pydantic.model_validator(mode="before")
    @classmethod
    def _order_of_lines(cls, section: Any) -> Any:
        lines = isinstance(section, dict) and section.get("documents") == "lines"
        return {"order": "permuted"} | section if lines else section

    @pydantic.model_validator(mode="after")
    def _lines_are_permuted(self) -> "TokenSource":
        if self.documents == "lines" and self.order != "permuted":
            raise ValueError(f"order: expected 'permuted' for documents = 'lines', got {self.order!r}")
        return self

    @pydantic.model_validator(mode="after")
    def _vocabulary(self) -> "TokenSource":
        if self.tokenizer != "bpe" and self.vocab_size:
            raise ValueError(f"vocab_size: expected 0 for the tokenizer {self.tokenizer}, got {self.vocab_size}")
        if self.tokenizer == "bpe" and not self.tokenizer_file and self.vocab_size < 256:
            raise ValueError(f"vocab_size: expected at least 256 for the tokenizer bpe, got {self.vocab_size}")
        return self


class AnySource(TokenSource):
    """A source that may hold images, vectors or text."""

    order: Literal["permuted", "windows", "streams"] = "permuted"
    """Order of text, as in `TokenSource`. Images and vectors are always `permuted`."""

    def check_read(self, kind: str, reads: Collection[str] = ()) -> None:
        """Raises ConfigError if a field of text is set that examples of `kind` do not read.

        Args:
          reads: the fields of text that they do.
        """
        for name in ("order", "context", "tokenizer", "vocab_size", "tokenizer_file", "documents"):
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default and name not in reads:
                raise ConfigError(f"config.data.{name}: expected {default!r} for {kind}s, found {value!r}")


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back, exactly."""

    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str) -> np.ndarray: ...
    def decode(self, ids: Any) -> str: ...
    def num_bytes(self, ids: Any) -> int: ...
    def to_json(self) -> str: ...


@runtime_checkable
class Feed(Protocol):
    """Batches of one split by number.

    Attributes:
      resident: arrays that are put on the device once; {} where the rows hold everything.
      num_batches: of one pass; None = endless.
    """

    @property
    def resident(self) -> Arrays: ...
    @property
    def num_batches(self) -> int | None: ...

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        """What the host sends for batch `step`: arrays [B, ...], or only the rows in `part`."""
        ...

    def assemble(self, resident: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
        """The batch; pure, compiled into the step."""
        ...


@runtime_checkable
class Dataset(Protocol):
    """A data set with its splits.

    Attributes:
      sizes: split -> examples (records of text are examples), or tokens where the set is other text.
    """

    @property
    def info(self) -> Info: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def sizes(self) -> dict[str, int]: ...
    def train_feed(self, batch_size: int) -> Feed: ...
    def eval_feed(self, split: str, batch_size: int) -> Feed: ...
    def with_arrays(self, extra: dict[str, Arrays]) -> "Dataset": ...
    def with_seed(self, seed: int) -> "Dataset": ...


def cut(n: int, source: Source, missing: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Cuts n training examples into disjoint, sorted indices int64, by `split_seed`.

    Args:
      n: the examples there are.
      source: how much to cut off, and which.
      missing: the splits that the set does not have itself, among `validation` and `test`.
    """
    order = np.random.default_rng([source.split_seed, n]).permutation(n)
    sizes = {split: round(n * getattr(source, split)) for split in ("test", "validation") if split in missing}
    splits, start = {}, 0
    for split, size in sizes.items():
        if getattr(source, split) > 0:
            splits[split] = np.sort(order[start : start + max(size, 1)])
            start += max(size, 1)
    if start >= n:
        raise DataError(f"data: {n} examples are too few to cut off {', '.join(sizes)}")
    splits["train"] = np.sort(order[start:])
    return {split: splits[split] for split in SPLITS if split in splits}


def cut_end(whole: Any, source: Source, missing: tuple[str, ...]) -> dict[str, Any]:
    """Cuts the `missing` splits off the end of one long text, a str or ids [L]: train, then validation, then test.

    Raises DataError if they leave nothing to train on.
    """
    pieces, end = {}, len(whole)
    for split in ("test", "validation"):
        if split in missing and (share := getattr(source, split)) > 0:
            start = end - round(len(whole) * share)
            pieces[split], end = whole[max(start, 0) : end], start
    if pieces and end <= 0:
        raise DataError(
            f"data: a text of {len(whole)} is too short to cut off {', '.join(pieces)}; see config.data.test"
        )
    return {"train": whole[:end]} | pieces


def cut_arrays(found: dict[str, Arrays], source: Source) -> dict[str, Arrays]:
    """Adds the splits that `found` (split -> arrays [N, ...]) lacks, cut from its `train`."""
    missing = tuple(split for split in ("validation", "test") if split not in found)
    train = found["train"]
    n = len(next(iter(train.values())))
    parts = cut(n, source, missing)
    if len(parts) == 1:
        return found
    found = found | {split: {k: v[index] for k, v in train.items()} for split, index in parts.items()}
    return {split: found[split] for split in SPLITS if split in found}
