"""Draws samples token by token: processors of logits, and one loop over `prefill` and `decode_token`.

All rows of a batch are at the same position. Prompts of unequal length add no cost to the model: after the shortest
prompt, the other prompts' tokens are fed like drawn ones.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

from gen_jax.core.filters import penalise, restricted
from gen_jax.core.sampling import Text
from gen_jax.core.state import PyTree

Draw = Callable[..., jax.Array]  # (keys [B], outputs [B, V], options) -> [B]


def process(
    logits: Float[Array, "B V"],
    options: Text,
    seen: Bool[Array, "B V"] | None = None,
    fresh: Int[Array, " B"] | None = None,
) -> Float[Array, "B V"]:
    """The logits that a token is drawn from.

    In this order, which is that of Hugging Face's `generate`: repetition penalty, shortest length, temperature, top-k,
    top-p, min-p. Each reads the probabilities that the one before it leaves.

    Args:
      logits: the model's.
      options: at temperature 0 only the penalty and the shortest length matter.
      seen: tokens in the prompt or drawn before.
      fresh: tokens drawn so far, of each row.
    """
    if options.repetition_penalty != 1 and seen is not None:
        logits = penalise(logits, seen, options.repetition_penalty)
    if options.end is not None and options.min_length and fresh is not None:
        ends = jnp.arange(logits.shape[-1]) == options.end
        logits = jnp.where(ends & (fresh < options.min_length)[:, None], -jnp.inf, logits)
    if options.temperature == 0:
        return logits
    return restricted(logits, **options.filters())


def draw_token(uniform: Float[Array, " B"], logits: Float[Array, "B V"], options: Text) -> Int[Array, " B"]:
    """One token a row from processed logits: the first whose cumulative probability exceeds `uniform`, in [0, 1).

    At temperature 0 it is the likeliest. One uniform number a row suffices; noise over the vocabulary would cost as
    much as a small model.
    """
    if options.temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    probs = jax.nn.softmax(logits, axis=-1)
    cumulative = jnp.cumsum(probs, axis=-1)
    passed = cumulative > uniform[:, None] * cumulative.max(axis=-1, keepdims=True)
    return (passed & (probs > 0)).argmax(-1).astype(jnp.int32)


@flax.struct.dataclass
class Generation:
    """Sequences that are being written."""

    tokens: PyTree  # [B, S] the prompt, then what was drawn
    position: PyTree  # [] int32, of the token that comes next
    done: PyTree  # [B] bool
    seen: PyTree  # [B, V] bool; None where no processor asks
    cache: PyTree


def rows(
    prompts: Sequence[Sequence[int]], n: int, start: int = 0, *, leads: bool = False
) -> tuple[Int[np.ndarray, "n P"], Int[np.ndarray, " n"]]:
    """The prompts of n rows, in turn, padded with 0, and their lengths.

    `start` replaces an empty prompt. If it `leads`, it precedes every prompt.
    """
    each = [[start, *prompt] if leads else list(prompt) or [start] for prompt in prompts] or [[start]]
    lengths = np.array([len(each[i % len(each)]) for i in range(n)], np.int32)
    tokens = np.zeros((n, lengths.max()), np.int32)
    for i, row in enumerate(tokens):
        row[: lengths[i]] = each[i % len(each)]
    return tokens, lengths


@dataclasses.dataclass(frozen=True)
class Generator:
    """Draws token after token from an `Autoregressive` model (models.base).

    The cache of a model with a `capacity` may be too small for the whole sequence: where it is full, its later half is
    read again into a new one, so that a token is drawn from at least half of `capacity` tokens before it.

    Args:
      model, options: what is asked, and of whom.
      lengths: tokens in each row's prompt, at least 1; known before anything is compiled.
      draw: replaces the draw from processed logits where the model's outputs are no logits.
    """

    model: Any
    options: Text
    lengths: tuple[int, ...]
    draw: Draw | None = None

    @property
    def length(self) -> int:
        """New tokens of each row."""
        assert self.options.length is not None, "options that `prepared` has not completed"
        return self.options.length

    @property
    def size(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths) + self.length

    @property
    def capacity(self) -> int:
        """Positions in one cache; the last token of all needs none."""
        return min(self.size - 1, self.model.capacity or self.size - 1)

    @property
    def kept(self) -> int:
        """Tokens that are read again where the cache is full."""
        return max(1, self.capacity // 2)

    @property
    def first(self) -> int:
        """The position that the first cache begins with: not 0 where the shortest prompt does not fit."""
        shortest = min(self.lengths)
        return 0 if shortest <= self.capacity else shortest - self.kept

    def start(self, state: PyTree, prompt: Num[Array, "B P"], condition: PyTree) -> Generation:
        """The prompts' common positions but the last are read in one call."""
        shortest = min(self.lengths)
        tokens = jnp.zeros((len(prompt), self.size), prompt.dtype).at[:, : prompt.shape[1]].set(prompt)
        seen = None
        if self.options.repetition_penalty != 1 and self.draw is None:
            vocab = self._outputs(state, tokens, condition)
            seen = jax.nn.one_hot(tokens[:, :shortest], vocab, dtype=jnp.int32).sum(axis=1) > 0
        cache = self.model.prefill(state, tokens[:, self.first : shortest - 1], self.capacity, condition)
        return Generation(tokens, jnp.int32(shortest), jnp.zeros(len(prompt), bool), seen, cache)

    def _outputs(self, state: PyTree, tokens: jax.Array, condition: PyTree) -> int:
        def decode(state, tokens, condition):
            cache = self.model.prefill(state, tokens[:, :0], self.capacity, condition)
            return self.model.decode_token(state, cache, tokens[:, 0])[0]

        return jax.eval_shape(decode, state, tokens, condition).shape[-1]

    def noise(self, keys: Key[Array, " B"]) -> PyTree:
        """The randomness of the draws: uniform numbers [B, S], one for each position, or the keys themselves."""
        return jax.vmap(lambda key: jax.random.uniform(key, (self.size,)))(keys) if self.draw is None else keys

    def advance(self, state: PyTree, noise: PyTree, generation: Generation) -> Generation:
        """One more token in every row: the prompt's, the drawn one, or 0 after the end."""
        t, lengths = generation.position, jnp.asarray(np.asarray(self.lengths, np.int32))
        before = jax.lax.dynamic_index_in_dim(generation.tokens, t - 1, axis=1, keepdims=False)
        outputs, cache = self.model.decode_token(state, generation.cache, before)
        if self.draw is None:
            here = jax.lax.dynamic_index_in_dim(noise, t, axis=1, keepdims=False)
            drawn = draw_token(here, process(outputs, self.options, generation.seen, t - lengths), self.options)
        else:
            drawn = self.draw(jax.vmap(jax.random.fold_in, (0, None))(noise, t), outputs, self.options)
        given = jax.lax.dynamic_index_in_dim(generation.tokens, t, axis=1, keepdims=False)
        token = jnp.where(t < lengths, given, jnp.where(generation.done, 0, drawn).astype(given.dtype))
        tokens = jax.lax.dynamic_update_index_in_dim(generation.tokens, token, t, axis=1)
        ended = t + 1 >= lengths + self.length
        if self.options.end is not None:
            ended |= (t >= lengths) & (token == self.options.end)
        seen = generation.seen
        if seen is not None:
            seen |= (token[:, None] == jnp.arange(seen.shape[1])) & ~generation.done[:, None]
        return Generation(tokens, t + 1, generation.done | ended, seen, cache)

    def refill(self, state: PyTree, generation: Generation, condition: PyTree) -> Generation:
        """The same sequences with a new cache, filled with the last tokens."""
        start = generation.position - self.kept
        last = jax.lax.dynamic_slice_in_dim(generation.tokens, start, self.kept - 1, axis=1)
        return dataclasses.replace(generation, cache=self.model.prefill(state, last, self.capacity, condition))

    @property
    def first_stop(self) -> int:
        """The position at which the first cache is full."""
        return min(self.size, self.first + self.capacity + 1)

    @property
    def stride(self) -> int:
        """Tokens that fit into a refilled cache."""
        return self.capacity - self.kept + 1

    def run(self, state: PyTree, keys: Key[Array, " B"], prompt: Num[Array, "B P"], condition: PyTree) -> Generation:
        """Runs until every row is done, compiled as one loop for each cache."""
        advance = functools.partial(self.advance, state, self.noise(keys))

        def until(generation, stop):
            return jax.lax.while_loop(lambda g: (g.position < stop) & ~g.done.all(), advance, generation)

        generation = until(self.start(state, prompt, condition), self.first_stop)
        if self.first_stop == self.size:
            return generation

        def refilled(generation):
            stop = jnp.minimum(self.size, generation.position + self.stride)
            return until(self.refill(state, generation, condition), stop)

        return jax.lax.while_loop(lambda g: (g.position < self.size) & ~g.done.all(), refilled, generation)

    def result(self, generation: Generation) -> tuple[Num[Array, "B length"], Int[Array, " B"]]:
        """The tokens after the prompts, 0 after the end, and their number (an `end` counts)."""
        lengths = jnp.asarray(np.asarray(self.lengths, np.int32))
        places = lengths[:, None] + jnp.arange(self.length)
        tokens = jnp.take_along_axis(generation.tokens, places, axis=1)
        if self.options.end is None:
            return tokens, jnp.full(len(tokens), self.length, jnp.int32)
        # a row that was not finished when all others were does not exist: all run until they are done
        ends = tokens == self.options.end
        sizes = jnp.where(ends.any(axis=1), ends.argmax(axis=1) + 1, self.length)
        return tokens, sizes.astype(jnp.int32)


def generate(
    model: Any,
    state: PyTree,
    rng: Key[Array, ""],
    prompt: Num[Array, "B P"] | Num[np.ndarray, "B P"],
    lengths: Any,
    options: Text,
    condition: PyTree = None,
    draw: Draw | None = None,
) -> tuple[Num[Array, "B length"], Int[Array, " B"]]:
    """Samples after prompts; a row's depend on its own key and prompt, and not on its company while a cache holds all.

    Where it does not, all rows read their last tokens again at the same time, which is that of the shortest prompt.

    Args:
      model: `Autoregressive` (models.base).
      rng: row b draws with fold_in(rng, b), its token at position t with the t-th number of that key.
      prompt: padded on the right; a row has at least one token.
      lengths: ints [B] on the host: the tokens in each row's prompt.
      condition: arrays [B, ...] that `prefill` takes: labels, a source text.
      draw: as `Generator`.

    Returns:
      The new tokens [B, options.length], 0 after the end, and how many of them there are [B], the end counted.
    """
    generator = Generator(model, options, tuple(int(length) for length in lengths), draw)
    keys = jax.vmap(functools.partial(jax.random.fold_in, rng))(jnp.arange(len(prompt)))
    return generator.result(generator.run(state, keys, jnp.asarray(prompt), condition or {}))


def stream(
    model: Any, state: PyTree, rng: Key[Array, ""], prompt: Any, lengths: Any, options: Text
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`generate` one token at a time, while any row continues: the next tokens [B], and which are new [B].

    The same tokens as `generate`'s, one dispatch each.
    """
    generator = Generator(model, options, tuple(int(length) for length in lengths))
    keys = jax.vmap(functools.partial(jax.random.fold_in, rng))(jnp.arange(len(prompt)))
    noise = generator.noise(keys)
    advance, refill = jax.jit(generator.advance), jax.jit(functools.partial(generator.refill, condition={}))
    generation = jax.jit(functools.partial(generator.start, condition={}))(state, jnp.asarray(prompt))
    position, stop = min(generator.lengths), generator.first_stop
    going = np.ones(len(prompt), bool)
    while position < generator.size and going.any():
        if position == stop:
            generation, stop = refill(state, generation), position + generator.stride
        generation = advance(state, noise, generation)
        token, done = jax.device_get((generation.tokens[:, position], generation.done))
        yield token, going & (position >= np.asarray(generator.lengths))
        going, position = ~done, position + 1
