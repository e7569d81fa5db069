"""Building blocks of generators and critics: norms, weight wrappers, attention, heads; and an MLP pair.

A generator is (noise [B, L], label [B] or None, train) -> [B, *shape], a critic (x [B, *shape], label, train) -> [B].
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gen_jax.nets.mlp import MLP

Features = Float[Array, "B *D C"]
Label = Int[Array, " B"] | None


class Moments(nn.Module):
    """Mean and variance of each channel over the whole batch, whatever the devices. Running averages in evaluation."""

    @nn.compact
    def __call__(self, x: Features, train: bool) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
        var = self.variable("batch_stats", "var", jnp.ones, x.shape[-1:])
        if not train:
            return mean.value, var.value
        axes = tuple(range(x.ndim - 1))
        now = x.mean(axes)
        spread = jnp.maximum((x**2).mean(axes) - now**2, 0)
        if not self.is_initializing():
            mean.value, var.value = 0.9 * mean.value + 0.1 * now, 0.9 * var.value + 0.1 * spread
        return now, spread


class BatchNorm(nn.Module):
    """Batch norm (Ioffe & Szegedy 2015), equal to `nn.BatchNorm` in float32. The label is not used.

    Flax's root of [1, ..., C] stops XLA from seeing that the critic's and the generator's update compute the same
    fakes. This root does not.
    """

    @nn.compact
    def __call__(self, x: Features, label: Label, train: bool) -> Features:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        mean, var = Moments()(x, train)
        factor = scale * jax.lax.rsqrt(var + 1e-5)
        return x * factor + (bias - mean * factor)


class ConditionalBatchNorm(nn.Module):
    """Batch norm with a scale and an offset for each class (de Vries et al. 2017; Miyato & Koyama 2018)."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Features, label: Int[Array, " B"], train: bool) -> Features:
        mean, var = Moments()(x, train)
        x = (x - mean) * jax.lax.rsqrt(var + 1e-5)
        shape = (len(x), *(1 for _ in x.shape[1:-1]), x.shape[-1])
        scale, offset = (
            nn.Embed(self.num_classes, x.shape[-1], embedding_init=init, name=name)(label).reshape(shape)
            for name, init in (("scale", nn.initializers.ones), ("offset", nn.initializers.zeros))
        )
        return scale * x + offset


class Identity(nn.Module):
    """No normalisation."""

    @nn.compact
    def __call__(self, x: Features, label: Label, train: bool) -> Features:
        return x


Norm = Callable[[], nn.Module]  # (x, label, train) -> like x
Apply = Callable[[Any, bool], Any]  # (inputs, train) -> outputs
Wrap = Callable[[nn.Module], Apply]  # what is done to the weights of a layer


def plain(layer: nn.Module) -> Apply:
    """The layer unchanged."""
    return lambda x, train: layer(x)


def spectral(layer: nn.Module) -> Apply:
    """The layer with kernel / sigma, its largest singular value as [inputs, outputs] (Miyato et al. 2018, eq. 8).

    A power iteration continues from step to step in training; sigma's gradient passes through the kernel. It starts
    with 20 rounds: after one round sigma is too small by a third, and logits too large by that to the power of the
    layers.
    """
    norm = nn.SpectralNorm(layer, n_steps=20 if layer.is_initializing() else 1)
    return lambda x, train: norm(x, update_stats=train)


class Attention(nn.Module):
    """Self-attention over the positions of a map, which starts as the identity (Zhang et al. 2019, eq. 1 to 3)."""

    wrap: Wrap = plain

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        places = x.reshape(len(x), -1, channels)  # [B, N, C]
        narrow = max(channels // 8, 1)
        query, key, value = (
            self.wrap(nn.Dense(width, use_bias=False))(places, train) for width in (narrow, narrow, channels)
        )
        weights = nn.softmax(jnp.einsum("bqd,bkd->bqk", query, key))
        mixed = self.wrap(nn.Dense(channels, use_bias=False))(jnp.einsum("bqk,bkc->bqc", weights, value), train)
        return x + self.param("gamma", nn.initializers.zeros, ()) * mixed.reshape(x.shape)


class Logit(nn.Module):
    """Features [B, F] to logits [B]. With classes, adds the inner product with the label's embedding.

    The projection of Miyato & Koyama 2018, eq. 3.
    """

    num_classes: int = 0
    wrap: Wrap = plain

    @nn.compact
    def __call__(self, h: Float[Array, "B F"], label: Label, train: bool) -> Float[Array, " B"]:
        logit = self.wrap(nn.Dense(1))(h, train).squeeze(-1)
        if self.num_classes:
            logit += (self.wrap(nn.Embed(self.num_classes, h.shape[-1]))(label, train) * h).sum(-1)
        return logit


class MLPGenerator(nn.Module):
    """ReLU layers of `widths` on noise and one-hot label: vectors, or images in [-1, 1]."""

    shape: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int = 0

    @nn.compact
    def __call__(self, z: Float[Array, "B L"], label: Label, train: bool) -> Float[Array, "B *D"]:
        if self.num_classes:
            z = jnp.concatenate([z, jax.nn.one_hot(label, self.num_classes)], axis=-1)
        x = nn.Dense(math.prod(self.shape))(MLP(self.widths)(z)).reshape(-1, *self.shape)
        return nn.tanh(x) if len(self.shape) > 1 else x


class MLPCritic(nn.Module):
    """ReLU layers of `widths`."""

    widths: tuple[int, ...]
    num_classes: int = 0
    wrap: Wrap = plain

    @nn.compact
    def __call__(self, x: Float[Array, "B *D"], label: Label, train: bool) -> Float[Array, " B"]:
        h = x.reshape(len(x), -1)
        for width in self.widths:
            h = nn.relu(self.wrap(nn.Dense(width))(h, train))
        return Logit(self.num_classes, self.wrap)(h, label, train)
