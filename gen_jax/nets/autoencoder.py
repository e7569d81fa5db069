"""An autoencoder's network: encoder, decoder, and the head between them. Both may be conditioned on labels."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class SharedVarianceHead(nn.Module):
    """Features [B, F] -> mean and log-variance [B, D] of a linear model's posterior, one variance for all inputs."""

    latent: int

    @nn.compact
    def __call__(self, h: Float[Array, "B F"]) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        mean = nn.Dense(self.latent)(h)
        log_var = self.param("log_var", nn.initializers.zeros, (self.latent,))
        return mean, jnp.broadcast_to(log_var, mean.shape)


class PointHead(nn.Module):
    """Features [B, F] -> a latent [B, D] without variance."""

    latent: int

    @nn.compact
    def __call__(self, h: Float[Array, "B F"]) -> tuple[Float[Array, "B D"], None]:
        return nn.Dense(self.latent)(h), None


class Network(nn.Module):
    """Encoder [B, H, W, C] -> [B, F], head, and decoder [B, D] -> [B, H, W, C * size]."""

    encoder: nn.Module
    head: nn.Module
    decoder: nn.Module
    num_classes: int
    learned_scale: bool

    def setup(self):
        if self.learned_scale:
            self.log_scale = self.param("log_scale", nn.initializers.zeros, ())

    def __call__(self, x: Float[Array, "B H W C"], label: Int[Array, " B"] | None) -> Any:
        return self.decode(self.encode(x, label)[0], label)

    def encode(
        self, x: Float[Array, "B H W C"], label: Int[Array, " B"] | None
    ) -> tuple[Float[Array, "B D"], Float[Array, "B D"] | None]:
        """Mean and log-variance of q(z | x, label)."""
        return self.head(self._conditioned(self.encoder(x).astype(jnp.float32), label))

    def decode(self, z: Float[Array, "B D"], label: Int[Array, " B"] | None) -> Any:
        """The parameters of p(x | z, label), as `Likelihood` takes them; float32."""
        outputs = self.decoder(self._conditioned(z, label)).astype(jnp.float32)
        return (outputs, self.log_scale) if self.learned_scale else outputs

    def _conditioned(self, rows, label):
        if not self.num_classes:
            return rows
        return jnp.concatenate([rows, jax.nn.one_hot(label, self.num_classes)], axis=-1)
