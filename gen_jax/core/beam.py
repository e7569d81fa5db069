"""Beam search over `prefill` and `decode_token` (models.base.Autoregressive), compiled as one loop."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from gen_jax.core.generate import generate
from gen_jax.core.sampling import Text
from gen_jax.core.state import PyTree
from gen_jax.errors import ConfigError

NEVER = -1e30  # the log-probability of a missing hypothesis; finite, so differences stay defined


@flax.struct.dataclass
class Beams:
    """Finished hypotheses, the best first.

    tokens int32 [B, K, length] with `end`, then 0; lengths int32 [B, K], `end` counted; log_probs, nats, and scores
    float32 [B, K], both about -1e30 where fewer than K were found.
    """

    tokens: PyTree
    lengths: PyTree
    log_probs: PyTree
    scores: PyTree


@flax.struct.dataclass
class Search:
    """A search that is under way."""

    step: PyTree  # [] int32, tokens written so far
    tokens: PyTree  # [B, K, length] of the unfinished hypotheses
    log_probs: PyTree  # [B, K]
    finished: Beams
    cache: PyTree  # [B * K, ...]


def search(
    model: Any,
    state: PyTree,
    prompt: Int[Array, "B P"],
    options: Text,
    condition: PyTree = None,
    best: int = 1,
) -> Beams:
    """The likeliest continuations of `prompt`, `options.beams` = K hypotheses a row.

    A hypothesis scores log p(tokens) / length ** `options.length_penalty`, as in fairseq and in Hugging Face's
    `generate`; GNMT (Wu et al. 2016, eq. 14) divides by ((5 + length) / 6) ** alpha instead. In each step all one-token
    extensions of the K unfinished hypotheses are ranked by log p. Among the best K, those that end are finished; the
    best K that do not end stay unfinished. A row stops when K hypotheses are finished, or when no unfinished one can
    still enter the `best` finished ones. What reaches `options.length` tokens is finished there. So one beam is greedy
    decoding, and enough beams find the best of all sequences.

    Args:
      prompt: read by all hypotheses; P at least 1, the same for all rows.
      options: of which `beams`, `length`, `min_length`, `end` and `length_penalty` (at least 0) count.
      condition: arrays [B, ...] that `prefill` takes.
      best: hypotheses a row that are asked for, at most K.
    """
    assert options.length is not None
    b, k, length = len(prompt), options.beams, options.length
    cache = model.prefill(state, prompt[:, :-1], prompt.shape[1] - 1 + length, condition or {})
    cache = jax.tree.map(lambda x: jnp.repeat(x, k, axis=0) if x.ndim else x, cache)
    nothing = jnp.full((b, k), NEVER)
    tokens = jnp.zeros((b, k, length), jnp.int32)
    finished = Beams(tokens, jnp.zeros((b, k), jnp.int32), nothing, nothing)
    start = Search(jnp.int32(0), tokens, nothing.at[:, 0].set(0.0), finished, cache)

    def body(now: Search) -> Search:
        before = jax.lax.dynamic_index_in_dim(now.tokens, jnp.maximum(now.step - 1, 0), axis=2, keepdims=False)
        before = jnp.where(now.step == 0, prompt[:, -1:], before)
        logits, cache = model.decode_token(state, now.cache, before.reshape(-1))
        return _advance(now, jax.nn.log_softmax(logits).reshape(b, k, -1), cache, options, best)

    done = jax.lax.while_loop(lambda now: (now.step < length) & ~_stops(now, options, best).all(), body, start)
    cut = Beams(done.tokens, jnp.full((b, k), length), done.log_probs, _score(done.log_probs, length, options))
    is_cut = (done.step == length) & ~_stops(done, options, best)[:, None]
    scores = jnp.where(is_cut & (done.log_probs > NEVER / 2), cut.scores, NEVER)
    return _best(done.finished, Beams(cut.tokens, cut.lengths, cut.log_probs, scores))


def sample(
    model: Any,
    state: PyTree,
    rng: Key[Array, ""],
    prompt: Any,
    lengths: Any,
    options: Text,
    condition: PyTree = None,
    distinct: int | None = None,
) -> tuple[Int[Array, "B T"], Int[Array, " B"]]:
    """`sampling.generate`, or with `options.beams` the best hypotheses of a search: new tokens and their lengths.

    Args:
      prompt, lengths, condition: rows, as `generate` takes them.
      distinct: P where row i repeats row i % P; None where all rows differ. A search gives row i the hypothesis i // P
        of row i % P, the best first; its length is 0 where there are fewer hypotheses.

    Raises:
      ConfigError: a search over prompts of unequal length, one that does not fit into the cache, or fewer beams than
        hypotheses that are asked for of a prompt.
    """
    if not options.beams:
        return generate(model, state, rng, prompt, lengths, options, condition)
    n = len(prompt)
    p = min(n, distinct or n)
    each = -(-n // p)
    if each > options.beams:
        raise ConfigError(f"n: expected at most {options.beams} of each prompt, the beams, got {each}")
    if len(set(map(int, lengths))) > 1:
        raise ConfigError("beams: expected prompts of one length for a beam search")
    assert options.length is not None
    needed = int(lengths[0]) - 1 + options.length
    if model.capacity is not None and needed > model.capacity:
        raise ConfigError(f"length: expected prompt and text to fit into {model.capacity} tokens, found {needed}")
    prompt, condition = jax.tree.map(lambda x: x[:p], (jnp.asarray(prompt), condition))
    found = search(model, state, prompt, options, condition, each)
    sizes = jnp.where(found.scores > NEVER / 2, found.lengths, 0)
    tokens, sizes = (x[:, :each].swapaxes(0, 1).reshape(each * p, *x.shape[2:])[:n] for x in (found.tokens, sizes))
    return tokens, sizes


def _score(log_probs: jax.Array, length: Any, options: Text) -> jax.Array:
    return log_probs / jnp.asarray(length, jnp.float32) ** options.length_penalty


def _best(a: Beams, b: Beams) -> Beams:
    """The K best of both, [B, K] each."""
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), a, b)
    _, index = jax.lax.top_k(both.scores, a.scores.shape[1])
    return jax.tree.map(lambda x: jnp.take_along_axis(x, index[..., None] if x.ndim == 3 else index, axis=1), both)


def _stops(now: Search, options: Text, best: int) -> jax.Array:
    """[B] bool: K hypotheses are finished, or no unfinished one can beat the finished one of rank `best`."""
    full = (now.finished.scores > NEVER / 2).all(axis=1)
    reachable = _score(now.log_probs.max(axis=1), options.length, options)  # log p never rises
    return full | (reachable <= now.finished.scores[:, best - 1])


def _advance(now: Search, log_p: Float[Array, "B K V"], cache: PyTree, options: Text, best: int) -> Search:
    """One more token for every hypothesis."""
    b, k, vocab = log_p.shape
    stopped = _stops(now, options, best)
    ends = jnp.arange(vocab) == (-1 if options.end is None else options.end)
    if options.min_length:
        log_p = jnp.where(ends & (now.step < options.min_length), NEVER, log_p)
    total = jnp.maximum(now.log_probs[..., None] + log_p, NEVER)
    # 2 K extensions: at most K of them end, one for each hypothesis
    log_probs, index = jax.lax.top_k(total.reshape(b, k * vocab), min(2 * k, k * vocab))
    parent, token = index // vocab, (index % vocab).astype(jnp.int32)
    tokens = jnp.take_along_axis(now.tokens, parent[..., None], axis=1)
    tokens = jax.lax.dynamic_update_index_in_dim(tokens, token[..., None], now.step, axis=2)
    ended = ends[token]

    length = now.step + 1
    counts = (ended & (log_probs > NEVER / 2) & ~stopped[:, None])[:, :k]
    scores = jnp.where(counts, _score(log_probs[:, :k], length, options), NEVER)
    fresh = Beams(tokens[:, :k], jnp.full((b, k), length), log_probs[:, :k], scores)

    going, order = jax.lax.top_k(jnp.where(ended, NEVER, log_probs), k)
    rows = jnp.arange(b)[:, None] * k + jnp.take_along_axis(parent, order, axis=1)
    cache = jax.tree.map(lambda x: x[rows.reshape(-1)] if x.ndim else x, cache)
    tokens = jnp.take_along_axis(tokens, order[..., None], axis=1)
    return Search(length, tokens, going, _best(now.finished, fresh), cache)
