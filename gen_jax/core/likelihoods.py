"""Distributions of pixels, given the outputs of a decoder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from gen_jax.core import grey, losses, ops


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """The protocol; `outputs` are rows [..., H, W, C * size]."""

    size = 1  # outputs for each channel
    discrete = True  # probabilities of pixel values, not densities
    normalised = True  # they sum, or integrate, to 1

    def observe(self, image: UInt8[Array, "B H W C"], rng: Key[Array, "*rows"]) -> Float[Array, "B H W C"]:
        """The data as the model sees them, in [0, 1]."""
        return ops.to_unit(image)

    def log_prob(self, outputs: Any, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """log p(x | outputs) in nats, one number an example. `x` broadcasts."""
        raise NotImplementedError

    def mean(self, outputs: Any) -> Float[Array, "..."]:
        """The expected pixels, in [0, 1]."""
        raise NotImplementedError


class GreyBernoulli(Likelihood):
    """Cross-entropy to grey levels, which is not a distribution over them. Outputs are logits."""

    discrete = False
    normalised = False

    def log_prob(self, outputs, x):
        return losses.bernoulli_log_prob(outputs, x)

    def mean(self, outputs):
        return jax.nn.sigmoid(outputs)


class Bernoulli(GreyBernoulli):
    """Bits, drawn with the grey levels as probabilities (Salakhutdinov & Murray 2008)."""

    discrete = True
    normalised = True

    def observe(self, image, rng):
        return grey.quantise(image, 2, rng).astype(jnp.float32)


class Gaussian(Likelihood):
    """N(mean, scale^2) on [0, 1]. Outputs are the means and the log of one learned scale."""

    discrete = False

    def log_prob(self, outputs, x):
        mean, log_scale = outputs
        return losses.gaussian_log_prob(mean, log_scale, x)

    def mean(self, outputs):
        return outputs[0]


@dataclasses.dataclass(frozen=True)
class LogisticMixture(Likelihood):
    """A discretized mixture of logistics for each channel."""

    mixtures: int = 5

    @property
    def size(self):
        return 3 * self.mixtures

    def _split(self, outputs):
        channels = outputs.shape[-1] // self.size
        logits, means, log_scales = jnp.split(outputs.reshape(*outputs.shape[:-1], channels, self.size), 3, axis=-1)
        return logits, means, log_scales - 2.0  # [..., H, W, C, K]; a scale of about 17 grey levels at first

    def log_prob(self, outputs, x):
        return losses.logistic_mixture_log_prob(*self._split(outputs), 2 * x - 1)

    def mean(self, outputs):
        """Exact: the sum over l = 0 ... 254 of P(level > l), one l at a time to save memory."""
        logits, means, log_scales = self._split(outputs)
        weights, inverse = jax.nn.softmax(logits), jnp.exp(-jnp.maximum(log_scales, losses.min_log_scale(256)))

        def add(total, edge):
            return total + (weights * jax.nn.sigmoid((means - edge) * inverse)).sum(-1), None

        edges = (jnp.arange(255) + 0.5) / 127.5 - 1
        total, _ = jax.lax.scan(add, jnp.zeros(means.shape[:-1]), edges)
        return total / 255
