"""A linear layer whose gradient stays fast on XLA's CPU backend."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jax.custom_derivatives import SymbolicZero
from jax.lax import optimization_barrier
from jaxtyping import Array, Float

from gen_jax.core import ops


@jax.custom_jvp
def _barred(x, kernel):
    return x @ kernel


def _tangent(primals, tangents):
    """The rule of a product. In its transpose barriers stand around `x` and the cotangent.

    Without them XLA fuses what made the two (a GELU, a LayerNorm) into a transposed copy of each. The rows are
    flattened, because the kernel's gradient is transposed in memory otherwise.
    """
    (x, kernel), (dx, dkernel) = primals, tangents
    parts = [] if isinstance(dx, SymbolicZero) else [dx @ kernel]
    if not isinstance(dkernel, SymbolicZero):
        if kernel.shape[0] > kernel.shape[1]:  # its gradient takes 0.6 of the time as the transpose of a wide matrix
            dkernel = optimization_barrier(dkernel.T).T
        flat = optimization_barrier(x).reshape(-1, x.shape[-1])
        parts.append((flat @ dkernel).reshape(*x.shape[:-1], -1))
    return _barred(x, kernel), optimization_barrier(sum(parts[1:], parts[0]))


_barred.defjvp(_tangent, symbolic_zeros=True)


def dot(x: Float[Array, "*rows D"], kernel: Float[Array, "D F"]) -> Float[Array, "*rows F"]:
    """x @ kernel."""
    return _barred(x, kernel) if ops.platform() == "cpu" else x @ kernel


class Dense(nn.Module):
    """`nn.Dense` with `dot`: parameters float32, the product in `dtype`."""

    features: int
    use_bias: bool = True
    kernel_init: Any = initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows {self.features}"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = dot(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            y += self.param("bias", initializers.zeros, (self.features,)).astype(self.dtype)
        return y
