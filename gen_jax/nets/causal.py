"""A Transformer that sees the past only."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class CausalBlock(nn.Module):
    """Self-attention and MLP, each after a LayerNorm and beside the identity; position t sees 0 ... t."""

    heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], *, train: bool) -> Float[Array, "B T D"]:
        width = x.shape[-1]
        past = nn.make_causal_mask(jnp.ones(x.shape[:2]))
        h = nn.LayerNorm(name="attention_norm")(x)
        h = nn.MultiHeadDotProductAttention(self.heads, name="attention")(h, mask=past)
        x = x + nn.Dropout(self.dropout, deterministic=not train)(h)
        h = nn.LayerNorm(name="mlp_norm")(x)
        h = nn.Dense(width, name="down")(nn.gelu(nn.Dense(4 * width, name="up")(h)))
        return x + nn.Dropout(self.dropout, deterministic=not train)(h)


class CausalTransformer(nn.Module):
    """Vectors [B, T, D], with learned positions, through `layers` blocks and a last LayerNorm."""

    layers: int
    heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], *, train: bool = False) -> Float[Array, "B T D"]:
        x = x + self.param("positions", nn.initializers.normal(0.02), x.shape[1:])
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for i in range(self.layers):
            x = CausalBlock(self.heads, self.dropout, name=f"block_{i}")(x, train=train)
        return nn.LayerNorm(name="norm")(x)
