"""FLOPs counted on the jaxpr against counts by hand, and against what XLA runs."""

import jax
import jax.numpy as jnp
import pytest
from members import MODELS, SMALLEST, smoke, some_slow

from gen_jax import compat
from gen_jax.core import ops
from gen_jax.training import flops
from gen_jax.training.program import Program

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

    met = 14 * 14  # pairs of a pixel and a weight: of 4 windows along an axis, the outer two have a pixel of padding
    assert flops.count(conv, image, kernel) == 2 * 2 * 3 * 5 * met
    small, back = jnp.zeros((2, 4, 4, 5)), jnp.zeros((4, 4, 5, 3))
    transposed = flops.count(lambda x, k: jax.lax.conv_transpose(x, k, (2, 2), "SAME"), small, back)
    assert transposed == 2 * 2 * 3 * 5 * met
    both = jax.grad(lambda x, k: (conv(x, k) ** 2).sum(), argnums=(0, 1))
    assert flops.count(both, image, kernel) == 3 * 2 * 2 * 3 * 5 * met


def test_what_is_computed_again_of_the_same_values_counts_once():
    def loss(w, x):
        body = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None), prevent_cse=False)
        return (jax.lax.scan(body, x, w)[0] ** 2).sum()

    layers, x = jax.ShapeDtypeStruct((5, 8, 8), jnp.float32), X
    once = 5 * 2 * 4 * 8 * 8
    assert flops.count(jax.grad(loss), layers, x) == 3 * once
    assert flops.count(jax.grad(loss), layers, x, recomputed=True) == 4 * once


def test_equal_products_of_unlike_values_are_two():
    def fn(x, w):
        def body(carry, row):
            return carry, jax.lax.scan(lambda c, other: (c, (row @ w, other @ w)), None, x)[1]

        return jax.lax.scan(body, None, x)[1]

    shape = jax.ShapeDtypeStruct((3, 4, 8), jnp.float32)
    assert flops.count(fn, shape, W) == (9 + 9) * 2 * 4 * 8 * 16
    assert flops.count(lambda x, w: (x @ w, (2 * x) @ w, x @ w), X, W) == 2 * 2 * 4 * 8 * 16


def test_a_conditional_counts_its_cheaper_branch():
    assert flops.count(lambda x, w: jax.lax.cond(x.sum() > 0, lambda: x @ w, lambda: jnp.zeros((4, 16))), X, W) == 0


GPT = "experiments/transformer/gpt.py"
WAYS = {
    "unrolled": ("scan_layers=False", "remat=none"),
    "scanned": ("scan_layers=True", "remat=none"),
    "products kept": ("scan_layers=False", "remat=dots"),
    "nothing kept": ("scan_layers=False", "remat=full"),
    "scanned, nothing kept": ("scan_layers=True", "remat=full"),
    "loss in parts": ("scan_layers=True", "remat=full", "loss_parts=4"),
    "float32": ("scan_layers=False", "remat=none", "dtype=float32"),
}


QUICK = {"unrolled", "scanned, nothing kept", "loss in parts"}


@pytest.mark.parametrize("way", some_slow(WAYS, QUICK))
def test_a_gpt_takes_6n_and_12lht_a_token_however_it_is_compiled(way):
    """N: parameters of matrix products, the token table among them, as it is the output layer. L layers, H wide, T."""
    program = Program(smoke(GPT, "model.loss_parts=1", *(f"model.{flag}" for flag in WAYS[way])))
    with ops.compiling_for("gpu"):  # there attention is a kernel that hides its work
        work, executed = program.flops_per_step(), program.flops_per_step(recomputed=True)
    model, (length,) = program.experiment.model, program.dataset.info.shape
    tokens = program.experiment.batch_size * (length - 1)
    params = jax.tree_util.tree_leaves_with_path(program.shapes.nets["net"].params)
    n = sum(x.size for path, x in params if "kernel" in str(path) or "token" in str(path))
    assert work == pytest.approx((6 * n + 12 * model.layers * model.width * (length - 1)) * tokens, rel=0.001)
    assert (executed == work) == ("remat=none" in WAYS[way])


def loops(jaxpr):
    return any(
        equation.primitive.name == "scan" or any(map(loops, compat.inner_jaxprs(equation))) for equation in jaxpr.eqns
    )


QUICK_MODELS = {"vae", "linear_ar", "gan"}


@pytest.mark.parametrize("name", some_slow(MODELS, QUICK_MODELS))
def test_the_work_of_a_model_is_no_more_than_what_runs(name):
    """So MFU is below 1. XLA's analysis of the compiled program counts elementwise operations too."""
    program = Program(smoke(SMALLEST[name], devices=1))
    args = program.shapes, program.first_batch_shapes, program.train_key
    if loops(jax.make_jaxpr(program.model.train_step)(*args).jaxpr):
        pytest.skip("XLA counts the body of a loop once")
    compiled = jax.jit(program.model.train_step).lower(*args).compile()
    assert 0 < program.flops_per_step() <= compiled.cost_analysis()["flops"]
