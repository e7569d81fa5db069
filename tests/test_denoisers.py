"""The networks of diffusion: DiT and U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nets.dit import DiT, rotary_2d, sinusoids_2d
from gen_jax.nets.patches import from_patches, to_patches
from gen_jax.nets.unet import UNet

KEY = jax.random.key(0)
moved = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), tree))
NETS = {
    "dit": DiT(patch=2, layers=2, heads=2, width=8, num_classes=3),
    "rotary": DiT(patch=2, layers=2, heads=2, width=8, num_classes=3, positions="rotary"),
    "unet": UNet(patch=1, widths=(8, 16), blocks=1, attention=(2,), heads=2, num_classes=3),
}


@pytest.mark.parametrize("name", NETS)
def test_a_network_starts_at_zero_and_reads_all_its_inputs(name):
    net = NETS[name]
    x, log_snr, label = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.array([-3.0, 2.0]), jnp.array([0, 1])
    variables = jax.jit(net.init)(KEY, x, log_snr, label)
    apply = jax.jit(net.apply)
    assert (apply(variables, x, log_snr, label) == 0).all()
    random = moved(variables)
    plain = apply(random, x, log_snr, label)
    assert plain.shape == x.shape and plain.dtype == jnp.float32
    for changed in ((x + 1e-1, log_snr, label), (x, log_snr + 1, label), (x, log_snr, label + 1)):
        assert (jnp.abs(apply(random, *changed) - plain).reshape(2, -1).max(1) > 1e-4).all()
    alone = apply(random, x[1:], log_snr[1:], label[1:])  # rows do not meet
    np.testing.assert_allclose(alone, plain[1:], rtol=1e-4, atol=1e-5)


def test_patches_are_rows_of_pixels_and_come_back():
    x = jax.random.normal(KEY, (2, 4, 6, 3))
    patches = to_patches(x, 2)
    assert patches.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(patches[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(from_patches(patches, 2), x)


def test_sinusoids_name_the_row_and_the_column():
    table = np.asarray(sinusoids_2d(3, 5, 8)).reshape(3, 5, 2, 4)
    assert (table[:, :1, 0] == table[:, :, 0]).all() and (table[:1, :, 1] == table[:, :, 1]).all()
    assert len(np.unique(table.reshape(15, 8), axis=0)) == 15 and table.std() > 0.5
    net = DiT(patch=2, layers=1, heads=2, width=8, positions="sinusoids")
    x, level = jnp.arange(16.0).reshape(1, 4, 4, 1), jnp.zeros(1)
    variables = net.init(KEY, x, level)
    variables = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(KEY, leaf.shape), variables)
    moved = net.apply(variables, jnp.roll(x, 2, axis=1), level)
    assert not np.allclose(moved, jnp.roll(net.apply(variables, x, level), 2, axis=1), atol=1e-3)


def test_rotary_products_depend_on_the_distances_in_rows_and_columns_alone():
    """On a grid of 3 rows and 5 columns; a query and a key, the same at each place."""
    q, k = (jnp.broadcast_to(part, (1, 15, 1, 8)) for part in jax.random.normal(KEY, (2, 8)))
    q, k = (rotary_2d(x, jnp.arange(15)[None], columns=5)[0, :, 0] for x in (q, k))
    products = np.asarray(q @ k.T).reshape(3, 5, 3, 5)
    np.testing.assert_allclose(products[1:, :, 1:, :], products[:-1, :, :-1, :], atol=1e-4)
    np.testing.assert_allclose(products[:, 1:, :, 1:], products[:, :-1, :, :-1], atol=1e-4)
    away = products[1, 2]
    assert np.abs(away - away[1, 2]).max() > 0.1 and np.abs(away[0] - away[2]).max() > 0.1
    assert np.abs(away[1, 1] - away[1, 3]) > 1e-2  # left and right differ


def test_scanned_layers_are_unrolled_ones():
    x, log_snr = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.array([-3.0, 2.0])
    plain = DiT(patch=2, layers=2, heads=2, width=8)
    variables = jax.jit(plain.init)(KEY, x, log_snr)
    params = moved(variables["params"])
    blocks = params["blocks"]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), blocks["block_0"], blocks["block_1"])
    scanned = plain.clone(scan_layers=True, remat="full")
    found = jax.jit(scanned.apply)({"params": params | {"blocks": {"layers": stacked}}}, x, log_snr)
    np.testing.assert_allclose(found, jax.jit(plain.apply)({"params": params}, x, log_snr), rtol=1e-5, atol=1e-5)


SCANNED = NETS["dit"].clone(scan_layers=True, remat="dots")


@pytest.mark.parametrize("net", [SCANNED, *(pytest.param(net, marks=pytest.mark.slow) for net in NETS.values())])
def test_two_levels_and_the_derivative_along_them_by_forward_mode(net):
    """As flow maps ask for: through scanned and recomputed layers, and under a gradient in the parameters."""
    x, levels, label = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.array([[0.3, 0.2], [0.9, 0.4]]), jnp.array([0, 1])
    variables = jax.tree.map(lambda leaf: leaf + 0.1, jax.jit(net.init)(KEY, x, levels, label))

    def slope(variables):
        return jax.jvp(lambda x, levels: net.apply(variables, x, levels, label), (x, levels), (jnp.sin(x), levels))

    def total(variables):
        value, found = slope(variables)
        return (found**2).sum(), (value, found)

    (_, (value, found)), pulled = jax.jit(jax.value_and_grad(total, has_aux=True))(variables)
    apply = jax.jit(net.apply)
    moved = [apply(variables, x + s * jnp.sin(x), (1 + s) * levels, label) for s in (-1e-2, 1e-2)]
    np.testing.assert_allclose(found, (moved[1] - moved[0]) / 2e-2, rtol=2e-2, atol=1e-3)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(pulled))
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(pulled["params"]["condition"]))
    for i in range(2):
        other = apply(variables, x, levels.at[:, i].add(0.3), label)
        assert (jnp.abs(other - value).reshape(2, -1).max(1) > 1e-4).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_dropout_acts_in_training_alone(name):
    net = NETS[name].clone(dropout=0.5)
    inputs = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.zeros(2), jnp.array([0, 1])
    variables = jax.jit(net.init)(KEY, *inputs)
    variables = moved(variables)
    apply = jax.jit(net.apply, static_argnames="train")
    rngs = [{"dropout": jax.random.key(i)} for i in range(2)]
    first, second = (apply(variables, *inputs, train=True, rngs=each) for each in rngs)
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(apply(variables, *inputs), apply(variables, *inputs, rngs=rngs[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_the_first_and_the_last_layer_are_float32_where_the_others_are_bfloat16(name):
    """At a lambda of 13 the noise is smaller than what bfloat16 rounds away from the input."""
    net, inputs = NETS[name].clone(dtype="bfloat16"), (jnp.ones((1, 4, 4, 1)), jnp.zeros(1), jnp.array([0]))
    variables = jax.jit(net.init)(KEY, *inputs)
    _, seen = net.apply(variables, *inputs, capture_intermediates=True)
    for layer in ("first" if name == "unet" else "patches", "pixels"):
        assert seen["intermediates"][layer]["__call__"][0].dtype == jnp.float32
    assert any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(seen))
