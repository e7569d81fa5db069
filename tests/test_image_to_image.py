"""The networks of CycleGAN: borders, patches, norms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core.gradients import Gradients, Optimizer
from gen_jax.errors import ConfigError
from gen_jax.models import cyclegan
from gen_jax.nets.image_to_image import PatchCritic, ReflectConv, ResNetTranslator
from gen_jax.settings import validate

ROOT = jax.random.key(0)


def test_a_mirrored_convolution_against_numpy():
    x = jax.random.normal(ROOT, (1, 4, 5, 1))
    variables = ReflectConv(1, 3).init(ROOT, x)
    kernel = np.asarray(variables["params"]["Conv_0"]["kernel"])[..., 0, 0]
    padded = np.pad(np.asarray(x)[0, ..., 0], 1, mode="reflect")
    expected = [[(padded[i : i + 3, j : j + 3] * kernel).sum() for j in range(5)] for i in range(4)]
    np.testing.assert_allclose(ReflectConv(1, 3).apply(variables, x)[0, ..., 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stages", "reach"), [(0, 7), (1, 16)])
def test_a_patch_is_as_large_as_the_critic_says(stages, reach):
    critic, side = PatchCritic(2, stages, norm="none"), 40
    x = jnp.zeros((1, side, side, 1))
    variables = critic.init(ROOT, x)
    slope = jax.grad(lambda x: critic.apply(variables, x)[0, 9, 9])(x + jax.random.normal(ROOT, x.shape))
    rows = np.flatnonzero(np.abs(slope[0, ..., 0]).sum(1))
    assert rows[-1] - rows[0] + 1 == len(rows) == reach


@pytest.mark.parametrize("stages", [0, 2])
def test_only_without_instance_norm_a_translation_sees_the_brightness(stages):
    x = jax.random.normal(ROOT, (2, 8, 8, 3))
    for norm, sees in (("instance", False), ("none", True)):
        net = ResNetTranslator(3, width=2, stages=stages, blocks=1, size=3, norm=norm)
        variables = net.init(ROOT, x)
        found, brighter = net.apply(variables, x), net.apply(variables, x + 0.5)
        assert found.shape == x.shape and float(jnp.abs(found).max()) <= 1
        assert (float(jnp.abs(found - brighter).max()) > 1e-3) == sees


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(image=(28, 28, 1), critic_stages=3), r"config\.model\.stages: expected image sides divisible by 8"),
        (dict(image=(8, 8, 3), critic_stages=1, stages=1, kernel=4), r"config\.model\.kernel: expected an odd size"),
        (dict(image=(8, 8, 3), critic_stages=1, stages=3, kernel=3), r"config\.model\.stages: expected at least 2"),
        (dict(loss="wasserstein"), r"config\.model\.loss: expected 'least_squares'"),
        (dict(buffer=0), r"config\.model\.buffer: expected greater than 0"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(cyclegan.Config, fields, "config.model")


def test_wrong_optimizers_are_refused():
    with pytest.raises(ConfigError, match=r"config\.optim: expected the entries gen_ab, gen_ba, disc_a, disc_b, got"):
        cyclegan.from_config(cyclegan.Config(), {"gen": Optimizer(optax.sgd(1.0))})
    optimizers = {
        name: Optimizer(optax.sgd(1.0), gradients=Gradients(1 + (name == "gen_ba"))) for name in cyclegan.NETS
    }
    with pytest.raises(ConfigError, match=r"config\.optim\.gen_ba\.micro_batches: expected the same as of gen_ab"):
        cyclegan.from_config(cyclegan.Config(), optimizers)
