"""What an evaluator is given and what it gives back, and how it reads results.

`evaluators/<type>.py` exports `Config` and `from_config(cfg, context) -> Evaluator`; the config's
`evals.<name>.type` picks the file. Functions are jitted in `from_config`, so that they compile once.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from gen_jax.core.sampling import Sampling
from gen_jax.core.state import PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.features import Features, choice
from gen_jax.models import base as models
from gen_jax.parallel.processes import gather
from gen_jax.runs import metric_tags
from gen_jax.settings import Settings


class EvalConfig(Settings):
    """Fields that every evaluator has."""

    type: str
    """The file in `evaluators`, a dotted path, or a file of your own."""
    split: str = "test"
    """Of the data set: `train`, `validation` or `test`, or several joined by `+`, one after the other.

    Tags start with it (`val/`, `train_eval/`, `test/`, `validation+test/`).
    """
    prefix: str = ""
    """Prefix of the names after the split, for two evaluators that would give the same names."""
    when: Literal["always", "end"] = "always"
    """At each evaluation, or once at the end of training (and in `gen-jax eval`)."""

    @property
    def splits(self) -> tuple[str, ...]:
        """All that are read."""
        return (self.split,)


class SampledConfig(EvalConfig):
    """Of evaluators that sample."""

    sampling: dict[str, Any] = Field(default_factory=dict)
    """Fields of the model's `Sampling`, where they differ from `config.sampling`."""


@dataclasses.dataclass
class Report:
    """What one evaluation found. Scalars' names carry no split: the loop adds it."""

    scalars: dict[str, float] = dataclasses.field(default_factory=dict)
    images: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # uint8 [H, W, 1 or 3]
    texts: dict[str, str] = dataclasses.field(default_factory=dict)  # Markdown
    audios: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # int16 [N, T]
    sample_rate: int = 0  # of audios, in Hz
    warnings: list[str] = dataclasses.field(default_factory=list)
    timings: dict[str, float] = dataclasses.field(default_factory=dict)  # what the clock decides: not in metrics.jsonl


@dataclasses.dataclass
class Context:
    """What the loop lends an evaluator.

    Attributes:
      model: the model; abilities are asked for with `isinstance(model, base.Encodes)` and so on.
      info: the data set's `data.source.Info`.
      batches: split -> every example of it once, in order, as device batches with `index` [B] and `valid` [B];
        the last one is padded, so all have one shape. Ends early on SIGTERM by raising.
      batch_size: rows of those batches.
      decode_text: token ids [T] -> text, where the data are tokens, or images with captions.
      rng: the root key of evaluation noise, read anew in each evaluation: runs that share evaluators lend their own.
      encode_text: text -> token ids, where `decode_text` is there.
      count_bytes: token ids [T] -> bytes of their text in UTF-8, also where they begin or end inside a character.
      poll: called now and then in long work; ends it on SIGTERM by raising.
      sampling: what a section's `sampling` asks of the model, as a whole.
      prepared: the same as `sample` takes it, completed by what the data say.
      size: split -> its examples, or tokens where the set is text; None where that is not known.
    """

    model: Any
    info: Any
    batches: Callable[[str], Iterator[dict]]
    batch_size: int
    decode_text: Callable[[np.ndarray], str] | None
    rng: jax.Array
    encode_text: Callable[[str], Any] | None = None
    count_bytes: Callable[[np.ndarray], int] | None = None
    poll: Callable[[], None] = lambda: None
    size: Callable[[str], int | None] = lambda split: None
    sampling: Callable[[Mapping[str, Any]], Any] = lambda section: Sampling()
    prepared: Callable[[Any], Any] = lambda options: options

    def options(self, cfg: SampledConfig) -> Any:
        """The model's `Sampling` that an evaluator draws with."""
        return self.prepared(self.sampling(cfg.sampling))

    def facts(self, cfg: SampledConfig) -> dict[str, str]:
        """How its samples differ from the model's own, for a metric's tag."""
        return self.sampling(cfg.sampling).facts()

    @property
    def num_classes(self) -> int:
        """Classes that the model is conditioned on; 0 where it is not."""
        return getattr(self.model, "num_classes", 0)

    @property
    def vocab(self) -> int:
        """Tokens of the captions that the model is conditioned on; 0 where it is not."""
        return getattr(self.model, "vocab", 0)

    def tagged(self, cfg: SampledConfig, scalars: Mapping[str, float]) -> dict[str, float]:
        """Numbers of its samples, under tags that say how those were drawn."""
        return {metric_tags.tag(name, **self.facts(cfg)): value for name, value in scalars.items()}


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """What `from_config` gives: `evaluator(state)` is one evaluation.

    Attributes:
      evaluate: reads the split, runs compiled functions, computes on the host.
      trace: those functions on one batch of the split. It is traced on shapes before the first step, so that what does
        not fit the model or the data is refused then.
      names: of the scalars that may be found, without facts, given the shapes that `trace` returns.
      draws: samples that are held at once.
    """

    evaluate: Callable[[State], Report]
    trace: Callable[[State, dict, jax.Array], PyTree] = lambda state, batch, rng: ()
    names: Callable[[PyTree], Iterable[str]] = lambda found: ()
    draws: int = 0

    def __call__(self, state: State) -> Report:
        return self.evaluate(state)


def named(*names: str) -> Callable[[PyTree], Iterable[str]]:
    """`Evaluator.names` where they are known whatever the shapes."""
    return lambda found: names


def require(found: bool, what: str, expected: str) -> None:
    """Refuses an evaluator when it is built.

    Raises:
      ConfigError: "evals: `what` expected `expected`".
    """
    if not found:
        raise ConfigError(f"evals: {what}: expected {expected}")


def require_apart(what: str, split: str, other: str) -> None:
    """Refuses a split that shares images with another; both may be sums, as `train+validation`."""
    require(not {*split.split("+")} & {*other.split("+")}, what, f"another split than {other}, got {split}")


def require_vectors(model: Any, what: str) -> None:
    """Refuses models whose `encode` gives no vectors."""
    vectors = isinstance(model, models.Encodes) and not isinstance(model, models.Quantises)
    require(vectors, what, f"a model that encodes to vectors, which {type(model).__name__} does not")


def results(step: Callable[[Any], PyTree], batches: Iterable[Any], every: int = 32) -> Iterator[PyTree]:
    """`step` of each batch on the host, in order; the device is waited for once in `every` batches."""
    waiting = []
    for batch in batches:
        waiting.append(step(batch))
        if len(waiting) == every:
            yield from gather(waiting)
            waiting = []
    yield from gather(waiting)


def target_tokens(batches: Iterable[dict]) -> np.ndarray:
    """The target tokens of a split, each once, in the order of the text: [N]."""

    @jax.jit
    def targets(batch):
        counted = batch.get("mask", jnp.ones(1)) * batch["valid"][:, None] > 0
        tokens = batch["tokens"][:, 1:]
        return tokens, jnp.broadcast_to(counted, tokens.shape), batch["index"]

    tokens, counted, index = (np.concatenate(parts) for parts in zip(*results(targets, batches), strict=True))
    order = np.argsort(index, kind="stable")  # rows that only pad count nothing, wherever they come
    return tokens[order][counted[order]]


def text_sizes(context: Context, tokens: np.ndarray) -> dict[str, int]:
    """The `byte`s of target tokens [N]; of records of text also their `character`s and how many `record`s they are.

    The end of a record counts as one character and as one byte.
    """
    assert context.count_bytes and context.decode_text
    if not context.info.records:
        return {"byte": context.count_bytes(tokens)}
    ends = int((tokens == context.info.end).sum())
    characters = len(context.decode_text(tokens)) + ends
    return {"byte": context.count_bytes(tokens) + ends, "character": characters, "record": ends}


def first(outputs: Iterable[tuple[PyTree, np.ndarray]], n: int) -> PyTree:
    """The first `n` valid rows of (rows, valid [B]) pairs, put together; fewer where there are no more."""
    kept, count = [], 0
    for rows, valid in outputs:
        kept.append(jax.tree.map(lambda x: x[valid][: n - count], rows))  # noqa: B023
        count += min(int(valid.sum()), n - count)
        if count == n:
            break
    return jax.tree.map(lambda *parts: np.concatenate(parts), *kept)


Images = tuple[np.ndarray, np.ndarray]  # uint8 [N, H, W, C] and their labels int32 [N], -1 where there are none


def rows(batches: Iterable[dict]) -> Iterator[Images]:
    """The images of a split, batch by batch, without what only pads."""

    def step(batch):
        return batch["image"], batch.get("label", jnp.full_like(batch["index"], -1)), batch["valid"]

    for image, label, valid in results(step, batches, every=4):
        yield image[valid], label[valid].astype(np.int32)


def images(batches: Iterable[dict]) -> Images:
    """All images of a split."""
    image, label = (np.concatenate(parts) for parts in zip(*rows(batches), strict=True))
    return image, label


def drawer(context: Context, cfg: SampledConfig, n: int) -> Callable[[State, jax.Array], PyTree]:
    """(state, rng) -> n samples, compiled."""
    return models.sampler(context.model, n, context.options(cfg), lambda done, steps: context.poll())


def draws(context: Context, cfg: SampledConfig) -> Callable[[State, dict, jax.Array], PyTree]:
    """`Evaluator.trace` of what samples images one batch at a time, as `sampler`."""
    model, options = context.model, context.options(cfg)
    return lambda state, batch, rng: model.sample(state, rng, len(batch["index"]), options)


def sampler(
    context: Context, cfg: SampledConfig, what: str, of_samples: Callable[..., PyTree]
) -> Callable[..., PyTree]:
    """(state, n, *args) -> `of_samples(*args, image, label)` of n samples on the host, in compiled batches.

    image: uint8 [B, H, W, C]. label [B]: what a class-conditional model was asked for; else -1.
    """
    model, options = context.model, context.options(cfg)
    require(context.info.kind == "image", what, f"images, the data are {context.info.kind}")
    require(isinstance(model, models.Samples), what, f"a model that samples, not {type(model).__name__}")
    classes = context.num_classes
    rows = context.batch_size - context.batch_size % (classes or 1)  # each batch has all classes equally often
    require(rows > 0, what, f"an eval_batch_size of at least {classes}, the number of classes")

    def judged(images, *args):
        label = options.labels(rows, classes)
        return of_samples(*args, images, jnp.full(rows, -1) if label is None else label)

    if isinstance(model, models.Stepped):
        draw, judge = drawer(context, cfg, rows), jax.jit(judged)
        step = lambda state, rng, *args: judge(draw(state, rng), *args)  # noqa: E731
    else:
        step = jax.jit(lambda state, rng, *args: judged(model.sample(state, rng, rows, options), *args))

    def sample(state: State, n: int, *args: Any) -> PyTree:
        def drawn(i):
            context.poll()
            return step(state, jax.random.fold_in(context.rng, i), *args)

        parts = results(drawn, range(-(-n // rows)), every=4)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *parts)

    return sample


def reconstructor(model: Any, what: str) -> Callable[[State, dict, jax.Array], jax.Array]:
    """(state, batch, rng) -> uint8 [B, H, W, C]: the model's own `reconstruct`, else `decode` of `encode`."""
    if isinstance(model, models.Reconstructs):
        return model.reconstruct
    encodes, decodes = isinstance(model, models.Encodes), isinstance(model, models.Decodes)
    require(encodes and decodes, what, f"a model that reconstructs, which {type(model).__name__} does not")

    def composed(state: State, batch: dict, rng: jax.Array) -> jax.Array:
        return model.decode(state, model.encode(state, batch))

    return composed


def choose_features(cfg: choice.Config, context: Context, what: str, test: str) -> Features:
    """The feature function of a section; its classifier's accuracy is stated on the split `test`."""
    require(context.info.kind == "image", what, f"images, the data are {context.info.kind}")
    return choice.choose(cfg, context.info, lambda split: images(context.batches(split)), test, context.poll)
