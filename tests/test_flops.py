"""FLOPs counted on the jaxpr against counts by hand."""

import jax
import jax.numpy as jnp

from gen_jax import flops

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)
W = jax.ShapeDtypeStruct((8, 16), jnp.float32)


def test_a_matrix_product():
    assert flops.count(lambda x, w: x @ w, X, W) == 2 * 4 * 8 * 16


def test_forward_and_backward_is_three_products_without_input_gradient_two():
    def loss(w, x):
        return (x @ w).sum()

    assert flops.count(jax.value_and_grad(loss), W, X) <= 2 * 2 * 4 * 8 * 16
    assert flops.count(jax.grad(lambda w, x: ((x @ w) ** 2).sum(), argnums=(0, 1)), W, X) == 3 * 2 * 4 * 8 * 16


def test_what_nothing_depends_on_does_not_count():
    def unused(x, w):
        return (jnp.dot(x, w), jax.jit(jnp.dot)(x, 2 * w))[0]

    assert flops.count(unused, X, W) == 2 * 4 * 8 * 16


def test_loops_count_their_length():
    square = jax.ShapeDtypeStruct((8, 8), jnp.float32)

    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.dot)(x, w), None), x, None, length=7)[0]

    assert flops.count(loop, X, square) == 7 * 2 * 4 * 8 * 8


def test_a_convolution_and_its_transpose():
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 5))
    dims = ("NHWC", "HWIO", "NHWC")

    def conv(x, k):
        return jax.lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=dims)

    assert flops.count(conv, image, kernel) == 2 * (2 * 4 * 4 * 5) * (4 * 4 * 3)
    small, back = jnp.zeros((2, 4, 4, 5)), jnp.zeros((4, 4, 5, 3))
    transposed = flops.count(lambda x, k: jax.lax.conv_transpose(x, k, (2, 2), "SAME"), small, back)
    assert transposed == 2 * (2 * 8 * 8 * 3) * (4 * 4 * 5) / 4
