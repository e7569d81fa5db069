"""Recurrent layers over whole windows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

Carry = tuple[Float[Array, "B H"], Float[Array, "B H"]]  # cell, output


def lstm_cell(carry: Carry, gates: Float[Array, "B G"]) -> Carry:
    """One step (Hochreiter 1997 with the forget gate of Gers 2000); `gates` [B, 4H] are i, f, g, o before squashing."""
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = nn.sigmoid(f) * carry[0] + nn.sigmoid(i) * jnp.tanh(g)
    return c, nn.sigmoid(o) * jnp.tanh(c)


@jax.custom_vjp
def lstm_scan(inputs: Float[Array, "T B G"], kernel: Float[Array, "H G"], carry: Carry) -> tuple[Carry, Array]:
    """Runs `lstm_cell` over T steps; `inputs` is the part of the gates that does not depend on the carry.

    The gradient is written out so that the kernel's is one product over all steps: left to autodiff, every step adds a
    [H, 4H] array to a sum in memory.

    Returns:
      The last carry, and the outputs [T, B, H].
    """
    carry, (outputs, _, _) = _forward(inputs, kernel, carry)
    return carry, outputs


def _forward(inputs, kernel, carry):
    def step(carry, x):
        gates = x + carry[1] @ kernel
        new = lstm_cell(carry, gates)
        return new, (new[1], carry, gates)

    return jax.lax.scan(step, carry, inputs)


def _lstm_fwd(inputs, kernel, carry):
    carry, (outputs, before, gates) = _forward(inputs, kernel, carry)
    return (carry, outputs), (kernel, before, gates)


def _lstm_bwd(saved, cotangents):
    kernel, before, gates = saved
    d_carry, d_outputs = cotangents

    def step(d_carry, xs):
        before, gates, d_output = xs
        _, pullback = jax.vjp(lstm_cell, before, gates)
        (d_cell, _), d_gates = pullback((d_carry[0], d_carry[1] + d_output))
        return (d_cell, d_gates @ kernel.T), d_gates

    d_carry, d_gates = jax.lax.scan(step, d_carry, (before, gates, d_outputs), reverse=True)
    d_kernel = jnp.einsum("tbh,tbg->hg", before[1], d_gates)
    return d_gates, d_kernel, d_carry


lstm_scan.defvjp(_lstm_fwd, _lstm_bwd)


class LSTM(nn.Module):
    """One layer; the input's part of the gates is one product for all steps. The forget gate starts open (bias 1)."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], carry: Carry) -> tuple[Carry, Float[Array, "B T H"]]:
        def bias(rng, shape, dtype=jnp.float32):
            return jnp.zeros(shape, dtype).at[self.width : 2 * self.width].set(1)

        inputs = nn.Dense(4 * self.width, bias_init=bias, name="input")(x)
        kernel = self.param("recurrent", initializers.orthogonal(), (self.width, 4 * self.width))
        carry, outputs = lstm_scan(inputs.swapaxes(0, 1), kernel, carry)
        return carry, outputs.swapaxes(0, 1)
