"""Dilated causal convolutions with gated units, whole and one sample at a time.

WaveNet (van den Oord et al. 2016); the queues of the cached form are those of Paine et al. 2016.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gen_jax.nets.dense import Dense


def receptive_field(kernel: int, dilations: tuple[int, ...]) -> int:
    """Samples before t that the prediction of sample t depends on: 1 + (kernel - 1) (1 + sum of dilations).

    The lone 1 in the bracket is the convolution in front of the stacks.
    """
    return 1 + (kernel - 1) * (1 + sum(dilations))


def taps(x: Float[Array, "B T C"], kernel: int, dilation: int) -> Float[Array, "B T kC"]:
    """x at t - (kernel - 1) dilation, ..., t - dilation, t, side by side; zeros before the start."""
    length = x.shape[1]
    shifts = [min(i * dilation, length) for i in reversed(range(kernel))]
    return jnp.concatenate([jnp.pad(x[:, : length - s], ((0, 0), (s, 0), (0, 0))) for s in shifts], axis=-1)


class CausalConv(nn.Module):
    """A causal convolution as one matrix product over shifted copies: fast on a CPU, in a loop too.

    The kernel [k C, F] is the usual [k, C, F] with its first two axes joined, the last tap the present.
    """

    features: int
    kernel: int
    dilation: int = 1

    def setup(self):
        self.dense = Dense(self.features)

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T F"]:
        return self.dense(taps(x, self.kernel, self.dilation))

    @property
    def span(self) -> int:
        """Past inputs that the queue holds."""
        return (self.kernel - 1) * self.dilation

    def queue(self, x: Float[Array, "B T C"]) -> Float[Array, "B span C"]:
        """The last inputs as a ring: input t at place t % span; zeros before the start."""
        length = x.shape[1]
        last = jnp.pad(x[:, max(0, length - self.span) :], ((0, 0), (max(0, self.span - length), 0), (0, 0)))
        return jnp.roll(last, length % self.span, axis=1) if self.span else last

    def step(
        self, queue: Float[Array, "B span C"], x: Float[Array, "B C"], position: Int[Array, ""]
    ) -> tuple[Float[Array, "B F"], Float[Array, "B span C"]]:
        """The output at `position`, whose input is `x`, and the queue that holds it."""
        places = [(position - i * self.dilation) % self.span for i in reversed(range(1, self.kernel))]
        past = [jax.lax.dynamic_index_in_dim(queue, place, axis=1, keepdims=False) for place in places]
        y = self.dense(jnp.concatenate([*past, x], axis=-1))
        if not self.span:
            return y, queue
        return y, jax.lax.dynamic_update_index_in_dim(queue, x, position % self.span, axis=1)


class Gated(nn.Module):
    """One layer: z = tanh(W_f * x + V_f h) sigmoid(W_g * x + V_g h) and x + 1x1(z) (eq. 3)."""

    width: int
    kernel: int
    dilation: int

    def setup(self):
        self.conv = CausalConv(2 * self.width, self.kernel, self.dilation)
        self.condition = Dense(2 * self.width, use_bias=False)
        self.out = Dense(self.width)

    def __call__(
        self, x: Float[Array, "B T C"], h: Float[Array, "B D"] | None
    ) -> tuple[Float[Array, "B T C"], Float[Array, "B T C"]]:
        """The next layer's input, and z, which the skip connections read."""
        return self._gate(x, self.conv(x), None if h is None else h[:, None])

    def queue(self, x: Float[Array, "B T C"]) -> Float[Array, "B span C"]:
        return self.conv.queue(x)

    def step(
        self, queue: Float[Array, "B span C"], x: Float[Array, "B C"], h: Any, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B C"], Float[Array, "B C"], Float[Array, "B span C"]]:
        """The same for one sample, and the updated queue."""
        y, queue = self.conv.step(queue, x, position)
        return *self._gate(x, y, h), queue

    def _gate(self, x, y, h):
        y = y if h is None else y + self.condition(h)
        signal, gate = jnp.split(y, 2, axis=-1)
        z = jnp.tanh(signal) * nn.sigmoid(gate)
        return x + self.out(z), z


class WaveNet(nn.Module):
    """Vectors [B, T, E] of the samples so far to what is said of each next one, [B, T, outputs].

    The skip connections' 1x1 convolutions and their sum are one product with all z side by side: the same numbers,
    fewer passes over memory.

    Args:
      width: channels of the residual path and of the gated units.
      skip: channels of the skip path and of the head.
      dilations: one a layer.
    """

    width: int
    skip: int
    outputs: int
    kernel: int
    dilations: tuple[int, ...]

    def setup(self):
        self.front = CausalConv(self.width, self.kernel)
        self.layers = [Gated(self.width, self.kernel, d) for d in self.dilations]
        self.skips = Dense(self.skip)
        self.hidden = Dense(self.skip)
        self.head = Dense(self.outputs)

    def __call__(self, x: Float[Array, "B T E"], h: Float[Array, "B D"] | None) -> Float[Array, "B T outputs"]:
        """`h`: the condition of every sample of a row, such as its class."""
        x, gated = self.front(x), []
        for layer in self.layers:
            x, z = layer(x, h)
            gated.append(z)
        return self._head(gated)

    def queues(self, x: Float[Array, "B T E"], h: Float[Array, "B D"] | None) -> tuple[Array, ...]:
        """The queues that `step` needs after these samples; T may be 0."""
        found = [self.front.queue(x)]
        x = self.front(x)
        for layer in self.layers:
            found.append(layer.queue(x))
            x, _ = layer(x, h)
        return tuple(found)

    def step(
        self, queues: tuple[Array, ...], x: Float[Array, "B E"], h: Float[Array, "B D"] | None, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B outputs"], tuple[Array, ...]]:
        """One sample in O(layers): the outputs at `position`, and the queues after it."""
        front, *rest = queues
        x, front = self.front.step(front, x, position)
        gated, after = [], [front]
        for layer, queue in zip(self.layers, rest, strict=True):
            x, z, queue = layer.step(queue, x, h, position)
            gated.append(z)
            after.append(queue)
        return self._head(gated), tuple(after)

    def _head(self, gated: list[Float[Array, "*batch C"]]) -> Float[Array, "*batch outputs"]:
        skips = nn.relu(self.skips(jnp.concatenate(gated, axis=-1)))
        return self.head(nn.relu(self.hidden(skips)))
