"""The convolution of stride 1: XLA's, with the kernel's gradient by pieces of the batch, in each mode."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nets import convolution
from gen_jax.nets.convolution import Conv, conv

ROOT = jax.random.key(0)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def operands(size=(3, 3), batch=6):
    keys = jax.random.split(ROOT, 4)
    x, dx = jax.random.normal(keys[0], (2, batch, 4, 5, 2))
    kernel, dkernel = jax.random.normal(keys[1], (2, *size, 2, 3))
    return (x, kernel), (dx, dkernel)


@pytest.mark.parametrize(("rows", "size"), [(4096, (3, 3)), (40, (3, 3)), (60, (5, 1)), (1, (1, 3))])
def test_forward_and_reverse_mode_equal_those_of_xla(monkeypatch, rows, size):
    """All the batch at once, pieces of 2 and of 3, and single images."""
    monkeypatch.setattr(convolution, "ROWS", rows)
    primals, tangents = operands(size)
    found, expected = (jax.jvp(fn, primals, tangents) for fn in (conv, plain))
    jax.tree.map(close, found, expected)
    cotangent = jnp.sin(found[0])
    found, expected = (jax.vjp(fn, *primals)[1](cotangent) for fn in (conv, plain))
    jax.tree.map(close, found, expected)


def test_a_batch_that_no_piece_divides_and_kernels_mapped_over_seeds():
    (x, kernel), _ = operands(batch=7)
    kernels = jnp.stack([kernel, jnp.cos(kernel)])

    def gradient(fn):
        return jax.vmap(jax.grad(lambda k, x: (fn(x, k) ** 2).sum(), (0, 1)), (0, None))(kernels, x)

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), gradient(conv), gradient(plain))


def test_reverse_over_forward_mode_and_second_gradients():
    """What MeanFlow and gradient penalties ask for."""
    (x, kernel), (dx, _) = operands()

    def results(fn):
        def slope(kernel):
            return sum((y**2).sum() for y in jax.jvp(lambda x: jnp.tanh(fn(x, kernel)), (x,), (dx,)))

        def penalty(kernel):
            return (jax.grad(lambda x: jnp.tanh(fn(x, kernel)).sum())(x) ** 2).sum()

        return jax.grad(slope)(kernel), jax.grad(penalty)(kernel)

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), results(conv), results(plain))


def test_the_kernels_gradient_has_no_convolution_as_large_as_the_image():
    """Such a convolution takes XLA's CPU backend twice as long."""
    (x, kernel), _ = operands()
    gradient = jax.grad(lambda k: conv(x, k).sum())
    assert jax.jit(gradient).lower(kernel).as_text().count("stablehlo.convolution") == 0
    wanted = jax.grad(lambda k: plain(x, k).sum())
    assert jax.jit(wanted).lower(kernel).as_text().count("stablehlo.convolution") > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_module_equals_flaxs(dtype):
    x = jax.random.normal(ROOT, (3, 4, 4, 2))
    ours, theirs = Conv(5, dtype=dtype), nn.Conv(5, (3, 3), dtype=dtype)
    params = theirs.init(ROOT, x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(ROOT, x), params)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    found, wanted = (jnp.asarray(module.apply(params, x)) for module in (ours, theirs))
    assert found.dtype == wanted.dtype
    close(found, wanted, atol=1e-5 if dtype == "float32" else 0.1)
