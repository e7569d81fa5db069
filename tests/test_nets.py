"""Nets: shapes, dtypes, and the transposed convolution against lax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gen_jax.nets.conv import ConvDecoder, ConvEncoder
from gen_jax.nets.conv_transpose import Conv, ConvTranspose, conv, conv_transpose
from gen_jax.nets.mlp import MLPDecoder, MLPEncoder
from gen_jax.nets.residual import ResBlock, ResidualDecoder, ResidualEncoder


def _lax(x, kernel, stride):
    return lax.conv_transpose(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True
    )


@pytest.mark.parametrize(("size", "stride", "width"), [(4, 2, 6), (4, 2, 16), (3, 1, 6), (5, 2, 6)])
def test_conv_transpose_value_and_gradients_equal_lax(size, stride, width):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 3, 5, 4))
    kernel = jax.random.normal(keys[1], (size, size, width, 4))
    value, pullback = jax.vjp(lambda *a: conv_transpose(*a, stride), x, kernel)
    expected, expected_pullback = jax.vjp(lambda *a: _lax(*a, stride), x, kernel)
    assert value.shape == (2, 3 * stride, 5 * stride, width)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    dy = jax.random.normal(keys[2], value.shape)
    for ours, lax_s in zip(pullback(dy), expected_pullback(dy), strict=True):
        np.testing.assert_allclose(ours, lax_s, rtol=1e-4, atol=1e-4)


def test_conv_transpose_has_second_gradients():
    x, kernel = jnp.ones((1, 2, 2, 1)), jax.random.normal(jax.random.key(0), (4, 4, 1, 1))

    def penalty(kernel, op):
        return (jax.grad(lambda x: (op(x, kernel, 2) ** 2).sum())(x) ** 2).sum()

    ours, lax_s = (jax.grad(penalty)(kernel, op) for op in (conv_transpose, _lax))
    np.testing.assert_allclose(ours, lax_s, rtol=1e-4)


def _lax_conv(y, kernel, stride):
    return lax.conv_general_dilated(y, kernel, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (3, 1)])
def test_conv_value_and_gradients_of_both_orders_equal_lax(size, stride):
    keys = jax.random.split(jax.random.key(0), 2)
    y, kernel = jax.random.normal(keys[0], (2, 4, 8, 3)), jax.random.normal(keys[1], (size, size, 3, 5))

    def results(op):
        def loss(y, kernel):
            return (op(jnp.tanh(op(y, kernel, stride)[..., :3]), kernel, stride) ** 2).sum()

        def penalty(y, kernel):
            return (jax.grad(loss)(y, kernel) ** 2).sum()

        return op(y, kernel, stride), jax.grad(loss, (0, 1))(y, kernel), jax.grad(penalty, (0, 1))(y, kernel)

    found, expected = (jax.tree.leaves(jax.jit(lambda op=op: results(op))()) for op in (conv, _lax_conv))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(jnp.abs(theirs).max()))
    out, _ = Conv(5, size, stride).init_with_output(keys[0], y)
    assert out.shape == (2, y.shape[1] // stride, y.shape[2] // stride, 5)


def test_conv_transpose_keeps_the_variance():
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 32))
    y, _ = jax.jit(ConvTranspose(32).init_with_output)(jax.random.key(1), x)
    assert 0.8 < y[:, 4:-4, 4:-4].std() < 1.2


NETS = {
    "mlp": (MLPEncoder((6, 5)), MLPDecoder((8, 12, 3), (5, 6))),
    "conv": (ConvEncoder((4, 6)), ConvDecoder((8, 12, 3), (6, 4))),
    "residual": (ResidualEncoder((4, 6)), ResidualDecoder((8, 12, 3), (6, 4))),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_encoders_and_decoders(name, dtype):
    encoder, decoder = (net.clone(dtype=dtype) for net in NETS[name])
    rng = jax.random.key(0)
    features, variables = jax.eval_shape(encoder.init_with_output, rng, jnp.ones((2, 8, 12, 3)))
    assert features.ndim == 2 and features.dtype == dtype
    image, more = jax.eval_shape(decoder.init_with_output, rng, jnp.ones((2, 7)))
    assert image.shape == (2, 8, 12, 3) and image.dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, more))} == {jnp.dtype("float32")}


def test_res_block_is_the_identity_at_first():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    y, _ = jax.jit(ResBlock().init_with_output)(jax.random.key(1), x)
    np.testing.assert_array_equal(x, y)
