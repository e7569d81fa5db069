"""The linear layer: flax's, with a barrier in its gradient, under each transformation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.nets.dense import Dense, dot

ROOT = jax.random.key(0)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def operands():
    keys = jax.random.split(ROOT, 4)
    x, dx = jax.random.normal(keys[0], (2, 2, 3, 5))
    kernel, dkernel = jax.random.normal(keys[1], (2, 5, 7))
    return (x, kernel), (dx, dkernel)


def plain(x, kernel):
    return x @ kernel


def test_dense_equals_flax_and_its_gradient():
    x = jax.random.normal(ROOT, (2, 3, 5))
    ours, theirs = Dense(7), nn.Dense(7)
    params = theirs.init(ROOT, x)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)

    def loss(module, params, x):
        return jnp.sin(module.apply(params, x)).sum()

    found, expected = (jax.grad(functools.partial(loss, m), (0, 1))(params, x) for m in (ours, theirs))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)


def test_forward_and_reverse_mode_equal_those_of_the_product():
    primals, tangents = operands()
    value, slope = jax.jvp(dot, primals, tangents)
    close(value, plain(*primals))
    moved = [plain(*(a + s * da for a, da in zip(primals, tangents, strict=True))) for s in (-1e-2, 1e-2)]
    np.testing.assert_allclose(slope, (moved[1] - moved[0]) / 2e-2, rtol=1e-2, atol=1e-3)
    cotangent = jnp.sin(value)
    found, expected = (jax.vjp(fn, *primals)[1](cotangent) for fn in (dot, plain))
    jax.tree.map(close, found, expected)


def test_derivatives_of_one_operand_and_of_derivatives():
    """What MeanFlow asks for: reverse over forward mode; and second gradients, as penalties ask for."""
    (x, kernel), (dx, _) = operands()

    def results(fn):
        def slope(kernel, x):
            return jax.jvp(lambda x: jnp.tanh(fn(x, kernel)), (x,), (dx,))

        def total(kernel, x):
            return sum((leaf**2).sum() for leaf in slope(kernel, x))

        penalty = jax.grad(lambda x: (jax.grad(total, 0)(kernel, x) ** 2).sum())
        return slope(kernel, x), jax.grad(total, (0, 1))(kernel, x), penalty(x)

    found, expected = (jax.jit(results, static_argnums=0)(fn) for fn in (dot, plain))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), found, expected)
    rows = jax.vmap(jax.grad(lambda x: dot(x, kernel).sum()))(x)
    close(rows, jnp.broadcast_to(kernel.sum(1), x.shape))


def test_the_barriers_stand_in_the_gradient_alone_and_nothing_is_multiplied_in_vain():
    (x, kernel), _ = operands()

    def counts(fn, *args):
        text = str(jax.make_jaxpr(fn)(*args))
        return text.count("optimization_barrier"), text.count("dot_general")

    def pulled(argnums):
        return jax.grad(lambda *operands: jnp.sin(dot(*operands)).sum(), argnums)

    assert counts(lambda *operands: jax.jit(dot)(*operands), x, kernel) == (0, 1)
    assert counts(pulled((0, 1)), x, kernel) == (2, 3)
    assert counts(pulled(0), x, kernel)[1] == counts(pulled(1), x, kernel)[1] == 2
