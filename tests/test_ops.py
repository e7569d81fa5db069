"""The scan that unrolls where a loop would hold a convolution, and the branch that is no branch there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.core import ops

KERNEL = jnp.full((3, 3, 1, 1), 0.2)


def blur(x):
    return jax.lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def named_conv_general_dilated(x):
    return 0.5 * x


BODIES = {
    "plain": (blur, True),
    "in a jit": (jax.jit(blur), True),
    "in a branch": (lambda x: jax.lax.cond(x.sum() > 0, blur, lambda x: x, x), True),
    "in a loop": (lambda x: jax.lax.fori_loop(0, 2, lambda _, x: blur(x), x), True),
    "in a gradient": (jax.grad(lambda x: (blur(x) ** 2).sum()), True),
    "in a custom rule": (jax.checkpoint(blur), True),
    "none": (lambda x: jnp.tanh(x), False),
    "only the name": (jax.jit(named_conv_general_dilated), False),
}


@pytest.mark.parametrize("name", BODIES)
def test_scan_unrolls_convolutions_and_nothing_else(name):
    function, unrolled = BODIES[name]
    x, xs = jax.random.normal(jax.random.key(0), (1, 4, 4, 1)), jnp.arange(3.0)

    def body(x, y):
        return function(x) + y, x.sum()

    traced = jax.make_jaxpr(lambda x: ops.scan(body, x, xs))(x).jaxpr
    (loop,) = [equation for equation in traced.eqns if equation.primitive.name == "scan"]
    assert loop.params["unroll"] == (3 if unrolled else 1)
    for ours, theirs in zip(ops.scan(body, x, xs), jax.lax.scan(body, x, xs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_one_turn_is_no_loop():
    x, xs = jax.random.normal(jax.random.key(0), (1, 4, 4, 1)), jnp.arange(1.0)

    def body(x, y):
        return blur(x) + y, x.sum()

    traced = jax.make_jaxpr(lambda x: ops.scan(body, x, xs))(x).jaxpr
    assert "scan" not in {equation.primitive.name for equation in traced.eqns}
    for ours, theirs in zip(ops.scan(body, x, xs), jax.lax.scan(body, x, xs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("function", "branches"), [(blur, False), (jnp.tanh, True)])
def test_what_is_not_due_is_left_out_unless_it_convolves(function, branches):
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 1))

    def when(due):
        return ops.where_due(due, lambda: function(x))

    names = {equation.primitive.name for equation in jax.make_jaxpr(when)(True).eqns}
    assert ("cond" in names) == branches
    np.testing.assert_allclose(when(jnp.bool_(True)), function(x), rtol=1e-6)
    np.testing.assert_array_equal(when(jnp.bool_(False)), 0 * x)


def test_what_is_traced_for_another_platform_takes_its_paths():
    def body(x, _):
        return jax.lax.conv(x, jnp.ones((1, 1, 1, 1)), (1, 1), "SAME"), x

    def loops() -> bool:
        jaxpr = jax.make_jaxpr(lambda x: ops.scan(body, x, jnp.zeros(4)))(jnp.ones((1, 1, 2, 2)))
        return any("unroll=1" in str(eqn) for eqn in jaxpr.eqns)

    assert ops.platform() == "cpu" and not loops()
    with ops.compiling_for("tpu"):
        assert ops.platform() == "tpu" and loops()
    assert ops.platform() == "cpu"
