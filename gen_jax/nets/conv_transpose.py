"""A convolution and its transpose, each the gradient of the other. They have no forward-mode derivatives."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float

from gen_jax.core import ops
from gen_jax.nets.convolution import DIMENSIONS, plain


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_transpose(
    x: Float[Array, "B H W I"], kernel: Float[Array, "h w O I"], stride: int
) -> Float[Array, "B H*{stride} W*{stride} O"]:
    """The adjoint in y of `conv(y, kernel)` with "SAME" padding and `stride`.

    Equals `lax.conv_transpose(..., transpose_kernel=True)`. By the adjoint, dx is conv(dy, kernel) and dkernel is the
    kernel gradient of conv at (dy, x); what autodiff makes of the dilated convolution is 14 times slower on CPU.
    """
    few = kernel.shape[2] < 16  # output channels, for which the copies below cost more than they save
    if ops.platform() == "cpu" and kernel.shape[:2] == (4, 4) and stride == 2 and not few:
        return _by_phases(x, kernel)
    return lax.conv_transpose(x, kernel, (stride, stride), "SAME", dimension_numbers=DIMENSIONS, transpose_kernel=True)


def _by_phases(x: Float[Array, "B H W I"], kernel: Float[Array, "4 4 O I"]) -> Float[Array, "B 2*H 2*W O"]:
    """`conv_transpose` with stride 2 that reads no zeros: 0.5 to 0.75 of its time on CPU.

    An output pixel of even or odd row and column (its phase) depends on 2x2 pixels through 2x2 taps of the kernel. One
    convolution computes all four phases.
    """
    b, h, w, i = x.shape
    taps = kernel.reshape(2, 2, 2, 2, -1, i)[::-1, ::-1, ::-1, ::-1]  # [tap, phase, tap, phase, O, I], both sides
    taps = taps.transpose(0, 2, 5, 1, 3, 4).reshape(2, 2, i, -1)
    y = lax.conv_general_dilated(x, taps, (1, 1), ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS)
    y = y.reshape(b, h + 1, w + 1, 2, 2, -1)
    rows = [jnp.stack([y[:, p : p + h, q : q + w, p, q] for q in (0, 1)], axis=3) for p in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


def _forward(x, kernel, stride):
    return conv_transpose(x, kernel, stride), (x, kernel)


def _backward(stride, saved, dy):
    x, kernel = saved
    dx, pullback = jax.vjp(lambda kernel: plain(dy, kernel, stride), kernel)
    return dx, *pullback(x)


conv_transpose.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(
    y: Float[Array, "B H W O"], kernel: Float[Array, "h w O I"], stride: int
) -> Float[Array, "B H//{stride} W//{stride} I"]:
    """The "SAME" convolution, for sides that `stride` divides. On CPU its second gradients are fast too.

    A gradient penalty needs them: WGAN-GP's step at 28x28 takes 270 instead of 780 ms of CPU time.
    """
    return plain(y, kernel, stride)


def _conv_backward(stride, saved, dx):
    y, kernel = saved
    _, pullback = jax.vjp(lambda kernel: plain(y, kernel, stride), kernel)
    return conv_transpose(dx, kernel, stride), *pullback(dx)


conv.defvjp(lambda y, kernel, stride: (plain(y, kernel, stride), (y, kernel)), _conv_backward)


class Conv(nn.Module):
    """[B, H, W, O] -> [B, H / stride, W / stride, features], whose sides `stride` divides."""

    features: int
    size: int = 4
    stride: int = 2

    @nn.compact
    def __call__(self, y: Float[Array, "B H W O"]) -> Float[Array, "B _ _ I"]:
        shape = (self.size, self.size, y.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        out: Any = conv(y, kernel, self.stride)
        return out + self.param("bias", nn.initializers.zeros, (self.features,))


class ConvTranspose(nn.Module):
    """[B, H, W, I] -> [B, stride * H, stride * W, features]; compute in `dtype`, parameters in float32."""

    features: int
    size: int = 4
    stride: int = 2
    dtype: jax.typing.DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B _ _ O"]:
        # an output pixel sees 1 / stride^2 of the kernel, so the variance is scaled up by it
        init = nn.initializers.variance_scaling(self.stride**2, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2)
        kernel = self.param("kernel", init, (self.size, self.size, self.features, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return conv_transpose(x, kernel, self.stride) + bias
