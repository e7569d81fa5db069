"""Two sets of images, A and B, without pairs: any two image sources of one shape, such as two folders."""

import dataclasses
from typing import Annotated, Any, Literal

import pydantic

from gen_jax.data.datasets import ExampleSet, has_split
from gen_jax.data.source import Arrays, Dataset, ExampleSource, Feed, Info, Source
from gen_jax.data.sources import load as load_source
from gen_jax.data.sources import parse
from gen_jax.errors import ConfigError

OTHER_ORDER = 2**64  # added to the seed of B: no run has such a seed, so the two orders are independent


def _inner(section: Any, info: Any) -> Source:
    return section if isinstance(section, Source) else parse(section, f"config.data.{info.field_name}")


# a section of its own, with a `source`
Inner = Annotated[pydantic.SerializeAsAny[Source], pydantic.BeforeValidator(_inner)]


class Outer(ExampleSource):
    """A source made of others, which cut off their own splits."""

    @pydantic.model_validator(mode="after")
    def _no_splits_of_its_own(self) -> "Outer":
        for name in ("validation", "test", "split_seed"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: expected in the sections inside of {self.source}, not beside them")
        return self


class Config(Outer):
    """a, b: sections like `config.data`."""

    source: Literal["unpaired"] = "unpaired"
    a: Inner
    b: Inner


@dataclasses.dataclass(frozen=True)
class UnpairedFeed:
    """Row by row an image of A and one of B: `image_a`, `image_b`; `index` counts the rows of an evaluation."""

    a: Feed
    b: Feed

    @property
    def resident(self) -> Arrays:
        return _named(self.a.resident, "a") | _named(self.b.resident, "b")

    @property
    def num_batches(self) -> int | None:
        if self.a.num_batches is None or self.b.num_batches is None:
            return None
        return min(self.a.num_batches, self.b.num_batches)

    def rows(self, step: int, part: slice = slice(None)) -> Arrays:
        return _named(self.a.rows(step, part), "a") | _named(self.b.rows(step, part), "b")

    def assemble(self, resident: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
        a, b = (getattr(self, side).assemble(_of(resident, side), _of(rows, side)) for side in ("a", "b"))
        valid = a["valid"] & b["valid"]
        return {"image_a": a["image"], "image_b": b["image"], "index": a["index"], "valid": valid}


def _named(arrays: dict[str, Any], side: str) -> dict[str, Any]:
    return {f"{name}_{side}": array for name, array in arrays.items()}


def _of(arrays: dict[str, Any], side: str) -> dict[str, Any]:
    return {name[:-2]: array for name, array in arrays.items() if name.endswith(f"_{side}")}


@dataclasses.dataclass(frozen=True)
class UnpairedSet:
    """Training draws from A and B in orders of their own; evaluation goes through both side by side.

    Args:
      aligned: as in `Info`.
    """

    a: ExampleSet
    b: ExampleSet
    aligned: bool = False
    tokenizer: None = None

    @property
    def info(self) -> Info:
        return Info("unpaired", self.a.info.shape, aligned=self.aligned)

    @property
    def sizes(self) -> dict[str, int]:
        """Rows that an evaluation has: as many as the smaller of the two."""
        return {split: min(n, self.b.sizes[split]) for split, n in self.a.sizes.items() if split in self.b.sizes}

    def train_feed(self, batch_size: int) -> Feed:
        """Endless; each set follows permutations of its own, whole ones, whatever its size."""
        return UnpairedFeed(self.a.train_feed(batch_size), self.b.train_feed(batch_size))

    def eval_feed(self, split: str, batch_size: int) -> Feed:
        """Both in order, until the smaller ends. Raises ConfigError if there is no such split."""
        has_split(split, self.sizes)
        return UnpairedFeed(self.a.eval_feed(split, batch_size), self.b.eval_feed(split, batch_size))

    def with_arrays(self, extra: dict[str, Arrays]) -> "UnpairedSet":
        raise ConfigError("data: arrays for each example can be added to images and vectors, not to two sets")

    def with_seed(self, seed: int) -> "UnpairedSet":
        """The same images in other training orders."""
        return dataclasses.replace(self, a=self.a.with_seed(seed), b=self.b.with_seed(seed + OTHER_ORDER))


def images(cfg: Source, seed: int, key: str) -> ExampleSet:
    """The set that `cfg` names. Raises ConfigError, which starts with `key`, where it holds no images."""
    found: Dataset = load_source(cfg, seed)
    if not isinstance(found, ExampleSet) or found.info.kind != "image":
        raise ConfigError(f"{key}: expected a source of images, found {found.info.kind}")
    return found


def load(cfg: Config, seed: int) -> UnpairedSet:
    """The two sets; `seed` is that of the training orders. Raises ConfigError if their shapes differ."""
    a, b = images(cfg.a, seed, "config.data.a"), images(cfg.b, seed + OTHER_ORDER, "config.data.b")
    if a.info.shape != b.info.shape:
        raise ConfigError(f"config.data.b: expected images {a.info.shape}, like a, found {b.info.shape}")
    return UnpairedSet(a, b)
