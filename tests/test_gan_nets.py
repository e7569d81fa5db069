"""Generators and critics: shapes at any resolution, and their parts against NumPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nets.adversarial import (
    Attention,
    BatchNorm,
    ConditionalBatchNorm,
    Logit,
    MLPCritic,
    MLPGenerator,
    spectral,
)
from gen_jax.nets.dcgan import DCGANCritic, DCGANGenerator
from gen_jax.nets.sngan import ResNetCritic, ResNetGenerator, sides

ROOT = jax.random.key(0)
LABEL = jnp.array([2, 0, 1, 2])


class Wrapped(nn.Module):
    """One layer under spectral norm."""

    layer: functools.partial

    @nn.compact
    def __call__(self, x, train):
        return spectral(self.layer())(x, train)


LAYERS = {
    "dense": (functools.partial(nn.Dense, 5), jnp.ones((2, 7)), "kernel"),
    "conv": (functools.partial(nn.Conv, 6, (3, 3)), jnp.ones((2, 4, 4, 3)), "kernel"),
    "embed": (functools.partial(nn.Embed, 3, 8), jnp.array([0, 2]), "embedding"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_spectral_norm_divides_by_the_largest_singular_value(name):
    layer, x, leaf = LAYERS[name]
    module = Wrapped(layer)
    variables = jax.jit(functools.partial(module.init, train=True))(ROOT, x)
    (params,) = variables["params"].values()
    largest = np.linalg.svd(np.reshape(params[leaf], (-1, params[leaf].shape[-1])), compute_uv=False)[0]
    step = jax.jit(lambda v: module.apply(v, x, True, mutable=["batch_stats"]))
    first, _ = step(variables)
    np.testing.assert_allclose(first, layer().apply({"params": params | {leaf: params[leaf] / largest}}, x), rtol=0.05)
    for _ in range(100):
        out, changed = step(variables)
        variables = variables | changed
    (sigma,) = (value for path, value in variables["batch_stats"]["SpectralNorm_0"].items() if path.endswith("sigma"))
    np.testing.assert_allclose(sigma, largest, rtol=1e-4)
    expected = layer().apply({"params": params | {leaf: params[leaf] / largest}}, x)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-6)
    still = module.apply(variables, x, False)  # evaluation changes nothing
    np.testing.assert_allclose(still, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("side", "stages"), [(28, 2), (32, 3), (64, 4)])
def test_shapes_follow_from_the_image(side, stages):
    widths = tuple(8 * 2**i for i in range(stages))
    norm = functools.partial(ConditionalBatchNorm, 3)
    pairs = [
        (DCGANGenerator((side, side, 3), widths[::-1], norm), DCGANCritic(widths, 3, BatchNorm)),
        (DCGANGenerator((side, side, 3), widths[::-1]), DCGANCritic(widths, wrap=spectral)),
        (ResNetGenerator((side, side, 3), widths[::-1], norm, 8), ResNetCritic(widths, 3, spectral, 8)),
        (MLPGenerator((side, side, 3), (8,), 3), MLPCritic((8,), 3, spectral)),
    ]
    for generator, critic in pairs:

        def both(z, generator=generator, critic=critic):
            x, _ = generator.init_with_output(ROOT, z, LABEL, train=True)
            return x, critic.init_with_output(ROOT, x, LABEL, train=True)[0]

        x, logits = jax.eval_shape(both, jnp.zeros((4, 5)))
        assert x.shape == (4, side, side, 3) and logits.shape == (4,)


@pytest.mark.parametrize(
    ("shape", "stages", "critic_stages", "expected"),
    [((32, 32, 3), 3, 4, [8, 16]), ((28, 28, 1), 2, 2, [14]), ((48, 16, 1), 3, 2, [24]), ((8, 8, 1), 1, 1, [])],
)
def test_both_networks_attend_at_the_sides_there_are(shape, stages, critic_stages, expected):
    assert sides(shape, stages, critic_stages) == expected

    def attending(module, *inputs):
        params = jax.eval_shape(functools.partial(module.init, train=True), ROOT, *inputs, None)["params"]
        return "Attention_0" in params

    for side in (shape[0] >> i for i in range(4)):
        made = attending(ResNetGenerator(shape, (8,) * stages, attention=side), jnp.zeros((1, 4)))
        judged = attending(ResNetCritic((8,) * critic_stages, attention=side), jnp.zeros((1, *shape)))
        assert (made and judged) == (side in expected)


def test_generated_images_are_between_minus_one_and_one():
    for generator in (DCGANGenerator((8, 8, 1), (4,)), MLPGenerator((8, 8, 1), (4,))):
        x, _ = jax.jit(functools.partial(generator.init_with_output, train=True))(ROOT, 100 * jnp.ones((4, 5)), None)
        assert float(jnp.abs(x).max()) <= 1


def test_dcgan_is_its_papers():
    """Parameters of the pair at 32x32 with 64 channels, counted by hand; ours have biases throughout."""
    images = jnp.zeros((1, 32, 32, 3))
    generator, critic = DCGANGenerator((32, 32, 3), (256, 128, 64)), DCGANCritic((64, 128, 256), norm=BatchNorm)
    gen = jax.eval_shape(lambda: generator.init(ROOT, jnp.zeros((1, 100)), None, train=True))["params"]
    disc = jax.eval_shape(lambda: critic.init(ROOT, images, None, train=True))["params"]
    kernels = 100 * 4 * 4 * 256 + 16 * (256 * 128 + 128 * 64 + 64 * 3)
    assert sum(x.size for x in jax.tree.leaves(gen) if x.ndim > 1) == kernels
    assert sum(x.size for x in jax.tree.leaves(disc) if x.ndim > 1) == 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256)


def test_with_a_dense_layer_dcgan_is_that_of_infogan_on_mnist():
    """Weights by the layers of Chen et al. 2016, table 1: 62 numbers of noise, latent code left out."""
    generator, critic = DCGANGenerator((28, 28, 1), (128, 64), hidden=1024), DCGANCritic((64, 128), hidden=1024)
    gen = jax.eval_shape(lambda: generator.init(ROOT, jnp.zeros((1, 62)), None, train=True))["params"]
    disc = jax.eval_shape(lambda: critic.init(ROOT, jnp.zeros((1, 28, 28, 1)), None, train=True))["params"]
    maps, taps = 7 * 7 * 128, 4 * 4 * 64 * (1 + 128)
    kernels = [sum(x.size for x in jax.tree.leaves(net) if x.ndim > 1) for net in (gen, disc)]
    assert kernels == [(62 + maps) * 1024 + taps, taps + (maps + 1) * 1024]


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_that_of_flax(train):
    x = jax.random.normal(ROOT, (4, 2, 2, 5)) * 3 + 1
    params = dict(zip(("scale", "bias"), jax.random.normal(ROOT, (2, 5)), strict=True))
    stats = dict(mean=jnp.arange(5.0), var=jnp.arange(1.0, 6.0))
    theirs = nn.BatchNorm(use_running_average=not train, momentum=0.9)
    expected, changed = theirs.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
    ours = {"params": params, "batch_stats": {"Moments_0": stats}}
    found, moved = BatchNorm().apply(ours, x, None, train, mutable=["batch_stats"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (moved, changed)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_conditional_batch_norm_against_numpy():
    module, x = ConditionalBatchNorm(3), jax.random.normal(ROOT, (4, 2, 2, 5)) * 3 + 1
    variables = module.init(ROOT, x, LABEL, True)
    scale, offset = jax.random.normal(ROOT, (2, 3, 5))
    params = {"scale": {"embedding": scale}, "offset": {"embedding": offset}}
    out, changed = module.apply(variables | {"params": params}, x, LABEL, True, mutable=["batch_stats"])
    x = np.float64(x)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    norm = (x - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(out, scale[LABEL][:, None, None] * norm + offset[LABEL][:, None, None], atol=1e-4)
    stats = changed["batch_stats"]["Moments_0"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-4)


def test_attention_against_numpy():
    module, x = Attention(), jax.random.normal(ROOT, (2, 3, 3, 8))
    params = module.init(ROOT, x, True)["params"]
    np.testing.assert_array_equal(module.apply({"params": params}, x, True), x)  # gamma is 0
    out = module.apply({"params": params | {"gamma": jnp.float32(0.5)}}, x, True)
    places = np.float64(x).reshape(2, 9, 8)
    query, key, value, last = (np.float64(params[f"Dense_{i}"]["kernel"]) for i in range(4))
    weights = np.exp(np.einsum("bqd,bkd->bqk", places @ query, places @ key))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(out, x + 0.5 * (weights @ places @ value @ last).reshape(x.shape), atol=1e-5)


def test_projection_is_an_inner_product_with_the_label():
    h = jax.random.normal(ROOT, (4, 6))
    params = Logit(3).init(ROOT, h, LABEL, True)["params"]
    dense, table = params["Dense_0"], np.asarray(params["Embed_0"]["embedding"])
    expected = np.asarray(h) @ dense["kernel"][:, 0] + dense["bias"] + (table[LABEL] * h).sum(1)
    np.testing.assert_allclose(Logit(3).apply({"params": params}, h, LABEL, True), expected, rtol=1e-5, atol=1e-6)
