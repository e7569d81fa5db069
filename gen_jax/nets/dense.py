"""A linear layer whose gradient stays fast on XLA's CPU backend."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from gen_jax.core import ops


@jax.custom_vjp
def _barred(x, kernel):
    return x @ kernel


def _forward(x, kernel):
    return x @ kernel, (x, kernel)


def _backward(saved, cotangent):
    x, kernel = saved
    # without it XLA fuses what made `x` and the cotangent (a GELU, a LayerNorm) into a transposed copy of each
    x, cotangent = jax.lax.optimization_barrier((x, cotangent))
    flat = (jnp.reshape(a, (-1, a.shape[-1])) for a in (x, cotangent))
    return cotangent @ kernel.T, jnp.einsum("nd,nf->df", *flat)


_barred.defvjp(_forward, _backward)


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
