"""Recurrent layers over whole windows: LSTM and GRU, with one scan for both."""

import functools
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

Carry = tuple[Float[Array, "B H"], ...]  # the last one is the layer's output


@runtime_checkable
class Cell(Protocol):
    """One step of a layer and its gradient.

    The gates [B, 4H] are linear in x, what comes from below, and u, what comes from the last output; `cut` is the
    transpose of `gates`. `step` also returns four arrays of the gates' size, from which `back` takes the gradient.
    """

    def gates(self, x: Array, u: Array) -> Array: ...
    def cut(self, gates: Array) -> tuple[Array, Array]: ...
    def step(self, carry: Carry, gates: Array) -> tuple[Carry, Array]: ...
    def back(self, before: Carry, after: Carry, saved: Array, d_carry: Carry) -> tuple[Carry, Array]: ...


class LSTMCell:
    """Hochreiter 1997 with the forget gate of Gers 2000. The carry is (cell, output), the gates are i, f, g, o."""

    def gates(self, x: Float[Array, "*b G"], u: Float[Array, "*b G"]) -> Float[Array, "*b G"]:
        return x + u

    def cut(self, gates: Float[Array, "*b G"]) -> tuple[Float[Array, "*b G"], Float[Array, "*b G"]]:
        return gates, gates

    def step(self, carry: Carry, gates: Float[Array, "B G"]) -> tuple[Carry, Float[Array, "B G"]]:
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
        c = f * carry[0] + i * g
        return (c, o * jnp.tanh(c)), jnp.concatenate([i, f, g, o], axis=-1)

    def back(
        self, before: Carry, after: Carry, saved: Float[Array, "B G"], d_carry: Carry
    ) -> tuple[Carry, Float[Array, "B G"]]:
        i, f, g, o = jnp.split(saved, 4, axis=-1)
        squashed = jnp.tanh(after[0])
        d_output = d_carry[1]
        d_cell = d_carry[0] + d_output * o * (1 - squashed**2)
        d_gates = [
            d_cell * g * i * (1 - i),
            d_cell * before[0] * f * (1 - f),
            d_cell * i * (1 - g**2),
            d_output * squashed * o * (1 - o),
        ]
        return (d_cell * f, jnp.zeros_like(d_output)), jnp.concatenate(d_gates, axis=-1)


class GRUCell:
    """Cho et al. 2014 with the reset gate behind the product, as in cuDNN.

    The carry is (output,); the gates are reset, update, and the candidate's parts from below and from the last output.
    """

    def gates(self, x: Float[Array, "*b X"], u: Float[Array, "*b X"]) -> Float[Array, "*b G"]:
        both = 2 * (x.shape[-1] // 3)
        return jnp.concatenate([x[..., :both] + u[..., :both], x[..., both:], u[..., both:]], axis=-1)

    def cut(self, gates: Float[Array, "*b G"]) -> tuple[Float[Array, "*b X"], Float[Array, "*b X"]]:
        h = gates.shape[-1] // 4
        return gates[..., : 3 * h], jnp.concatenate([gates[..., : 2 * h], gates[..., 3 * h :]], axis=-1)

    def step(self, carry: Carry, gates: Float[Array, "B G"]) -> tuple[Carry, Float[Array, "B G"]]:
        r, z, below, beside = jnp.split(gates, 4, axis=-1)
        r, z = nn.sigmoid(r), nn.sigmoid(z)
        n = jnp.tanh(below + r * beside)
        return ((1 - z) * n + z * carry[0],), jnp.concatenate([r, z, n, beside], axis=-1)

    def back(
        self, before: Carry, after: Carry, saved: Float[Array, "B G"], d_carry: Carry
    ) -> tuple[Carry, Float[Array, "B G"]]:
        r, z, n, beside = jnp.split(saved, 4, axis=-1)
        d_output = d_carry[0]
        d_n = d_output * (1 - z) * (1 - n**2)  # before the tanh
        d_gates = [d_n * beside * r * (1 - r), d_output * (before[0] - n) * z * (1 - z), d_n, d_n * r]
        return (d_output * z,), jnp.concatenate(d_gates, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recurrent_scan(
    cell: Cell,
    inputs: Float[Array, "T B X"],
    kernel: Float[Array, "H X"],
    bias: Float[Array, " X"] | None,
    keep: Float[Array, "B H"] | None,
    carry: Carry,
) -> tuple[Carry, Float[Array, "T B H"]]:
    """Runs `cell` over T steps.

    The gradient is written out: squashed gates are kept and not computed twice, and the kernel's is one product over
    all steps, where autodiff would add a [H, X] array to a sum in memory at every step.

    Args:
      inputs: x, which does not depend on the carry.
      kernel, bias: u = (last output * keep) @ kernel + bias.
      keep: a dropout mask, the same at every step; no gradient flows into it.

    Returns:
      The last carry, and the outputs.
    """
    return _forward(cell, inputs, kernel, bias, keep, carry)[0]


def _forward(cell, inputs, kernel, bias, keep, carry):
    def step(carry, x):
        u = _masked(carry[-1], keep) @ kernel
        new, saved = cell.step(carry, cell.gates(x, u if bias is None else u + bias))
        return new, (new, saved)

    last, (carries, saved) = jax.lax.scan(step, carry, inputs)
    return (last, carries[-1]), (carries, saved)


def _masked(output, keep):
    return output if keep is None else output * keep


def _fwd(cell, inputs, kernel, bias, keep, carry):
    result, (carries, saved) = _forward(cell, inputs, kernel, bias, keep, carry)
    return result, (kernel, bias, keep, carry, carries, saved)


def _bwd(cell, residuals, cotangents):
    kernel, bias, keep, first, carries, saved = residuals
    d_carry, d_outputs = cotangents
    before = tuple(jnp.concatenate([one[None], later[:-1]]) for one, later in zip(first, carries, strict=True))

    def step(d_carry, xs):
        before, after, saved, d_output = xs
        d_before, d_gates = cell.back(before, after, saved, (*d_carry[:-1], d_carry[-1] + d_output))
        d_u = cell.cut(d_gates)[1]
        return (*d_before[:-1], d_before[-1] + _masked(d_u @ kernel.T, keep)), d_gates

    d_carry, d_gates = jax.lax.scan(step, d_carry, (before, carries, saved, d_outputs), reverse=True)
    d_x, d_u = cell.cut(d_gates)
    d_kernel = jnp.einsum("tbh,tbx->hx", _masked(before[-1], keep), d_u)
    d_bias = None if bias is None else d_u.sum(axis=(0, 1))
    return d_x, d_kernel, d_bias, None if keep is None else jnp.zeros_like(keep), d_carry


recurrent_scan.defvjp(_fwd, _bwd)


class Recurrent(nn.Module):
    """What both layers share. `dropout` is of the last output on its way along time, one mask a window (Gal 2016)."""

    width: int
    dropout: float = 0.0

    def _run(self, cell, inputs, bias, carry, train):
        """inputs [T, B, X] -> carry, outputs [B, T, H]."""
        kernel = self.param("recurrent", initializers.orthogonal(), (self.width, inputs.shape[-1]))
        keep = None
        if train and self.dropout:
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout, carry[-1].shape)
            keep = kept / (1 - self.dropout)
        after: Any = recurrent_scan(cell, inputs, kernel, bias, keep, carry)
        carry, outputs = after
        return carry, outputs.swapaxes(0, 1)


class LSTM(Recurrent):
    """One layer. The input's part of the gates is one product for all steps. The forget gate starts open (bias 1)."""

    def zeros(self, rows: int) -> Carry:
        """The carry before a text."""
        return jnp.zeros((rows, self.width)), jnp.zeros((rows, self.width))

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], carry: Carry, *, train: bool = False
    ) -> tuple[Carry, Float[Array, "B T H"]]:
        def bias(rng, shape, dtype=jnp.float32):
            return jnp.repeat(jnp.array([0, 1, 0, 0], dtype), self.width)  # of the gates i, f, g, o

        inputs = nn.Dense(4 * self.width, bias_init=bias, name="input")(x.swapaxes(0, 1))
        return self._run(LSTMCell(), inputs, None, carry, train)


class GRU(Recurrent):
    """One layer of `GRUCell`."""

    def zeros(self, rows: int) -> Carry:
        """The carry before a text."""
        return (jnp.zeros((rows, self.width)),)

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], carry: Carry, *, train: bool = False
    ) -> tuple[Carry, Float[Array, "B T H"]]:
        inputs = nn.Dense(3 * self.width, name="input")(x.swapaxes(0, 1))
        bias = self.param("recurrent_bias", initializers.zeros, (3 * self.width,))
        return self._run(GRUCell(), inputs, bias, carry, train)
