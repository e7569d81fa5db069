"""The network of a Transformer from text to text. Positions and masks stay within a pair."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Bool, Float, Int

from gen_jax.core import ops
from gen_jax.nets import transformer as nets
from gen_jax.nets.dense import dot


def sinusoids(positions: Int[Array, "*rows"], width: int) -> Float[Array, "*rows D"]:
    """Positions as sines and cosines (Vaswani et al. 2017, section 3.5; sines first, then cosines)."""
    half = width // 2
    angle = positions[..., None] * 10_000.0 ** (-jnp.arange(half) / half)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def places(segment: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """The position of each token in its segment."""
    t = jnp.arange(segment.shape[1])
    new = jnp.pad(segment[:, 1:] != segment[:, :-1], ((0, 0), (1, 0)))
    return t - jax.lax.cummax(jnp.where(new, t, 0), axis=1)


def same(query: Int[Array, "B T"], key: Int[Array, "B S"]) -> Bool[Array, "B 1 T S"]:
    """Whether both are of one segment."""
    return (query[:, :, None] == key[:, None, :])[:, None]


class Network(nn.Module):
    """Token embedding, encoder, decoder, logits. All three share the token table (section 3.4)."""

    vocab: int
    width: int
    heads: int
    encoder: nets.Factory
    decoder: nets.Factory
    decoder_layers: int
    norm: nets.Factory
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def setup(self):
        init = initializers.normal(self.width**-0.5)
        self.token = nn.Embed(self.vocab, self.width, embedding_init=init, name="token")
        self.reader, self.reader_norm = self.encoder(name="encoder"), self.norm(name="encoder_norm")
        self.writer = [self.decoder(name=f"decoder_{i}") for i in range(self.decoder_layers)]
        self.writer_norm = self.norm(name="decoder_norm")
        self.drop = nn.Dropout(self.dropout)

    def _embed(self, tokens, positions, train):
        x = nets.look_up(self.token.embedding, tokens) * self.width**0.5 + sinusoids(positions, self.width)
        return self.drop(x.astype(self.dtype), deterministic=not train)

    def read(
        self, source: Int[Array, "B S"], segment: Int[Array, "B S"], *, train: bool = False
    ) -> tuple[nets.Cache, ...]:
        """Keys and values of the source for each layer of the decoder."""
        positions = places(segment)
        x = self._embed(source, positions, train)
        x, _ = self.reader(x, None, positions, same(segment, segment), 0, train)
        memory = self.reader_norm(x)
        return tuple(layer.keys(memory) for layer in self.writer)

    def write(
        self,
        tokens: Int[Array, "B T"],
        keys: tuple[nets.Cache, ...],
        positions: Int[Array, "#B T"],
        mask: Bool[Array, "#B 1 T K"],
        cross_mask: Bool[Array, "B 1 #T S"],
        cache: tuple[nets.Cache, ...] | None = None,
        index: Int[Array, ""] | int = 0,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B T V"], tuple[nets.Cache | None, ...]]:
        """float32 logits of the next token at each position, and the cache with `tokens` written at `index`."""
        x, after = self._embed(tokens, positions, train), []
        for i, layer in enumerate(self.writer):
            before = None if cache is None else cache[i]
            x, one = layer(x, before, keys[i], positions, mask, cross_mask, index, train)
            after.append(one)
        logits = dot(self.writer_norm(x), self.token.embedding.astype(self.dtype).T)
        return ops.constrain(logits.astype(jnp.float32), ops.ROWS, None, "model"), tuple(after)

    def __call__(
        self,
        source: Int[Array, "B S"],
        source_segment: Int[Array, "B S"],
        tokens: Int[Array, "B T"],
        segment: Int[Array, "B T"],
        *,
        train: bool = False,
    ) -> Float[Array, "B T V"]:
        """Logits of the next token at each position. Padding counts as part of the last target, as in decoding."""
        segment = jax.lax.cummax(segment, axis=1)
        mask = same(segment, segment) & jnp.tri(tokens.shape[1], dtype=bool)
        keys = self.read(source, source_segment, train=train)
        return self.write(tokens, keys, places(segment), mask, same(segment, source_segment), train=train)[0]
