"""Reflow: pairs along a known ODE, the straight flow that joins them, and the frozen teacher that makes them."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gaussian_data import GAUSSIAN, MEAN, STD, Mixture
from members import assert_same, smoke

from gen_jax import train
from gen_jax.core import denoising, flow_maps
from gen_jax.core.gradients import Optimizer
from gen_jax.core.noise import Schedule, rows
from gen_jax.core.state import Net, State
from gen_jax.errors import ConfigError
from gen_jax.models import base, reflow
from gen_jax.models.base import Preprocesses
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import validate
from gen_jax.training.preprocess import preprocessed
from gen_jax.training.program import Program

KEY, FLOW = jax.random.key(0), Schedule("flow", "flow", 18.0, -18.0)
SMALL = dict(image=(4, 4, 1), patch=2, layers=1, heads=2, width=8, curve="flow", target="u", weighting="u")
SMALL |= dict(lambda_max=18.0, lambda_min=-18.0, pairs=3, pair_steps=4)
B = 6


# The closed forms ------------------------------------------------------------------------------------------------


def test_the_pairs_of_a_gaussian_are_those_of_its_ode():
    eps = jax.random.normal(KEY, (64, 2))
    found = jax.jit(lambda: flow_maps.transport(GAUSSIAN.denoiser(FLOW), FLOW, eps, 64))()
    np.testing.assert_allclose(found.x, MEAN + STD * eps, atol=2e-3)
    curved = dataclasses.replace(FLOW, curve="cosine")  # steps are even in the position, whatever the curve
    other = jax.jit(lambda: flow_maps.transport(GAUSSIAN.denoiser(curved), curved, eps, 64))()
    np.testing.assert_allclose(other.x, found.x, rtol=1e-6)


def test_the_straightness_of_a_gaussian_is_the_variance_of_its_velocity():
    """dZ/dt = -MEAN + eps d std_t / dt, where std_t^2 = (1 - t)^2 STD^2 + t^2."""
    eps = jax.random.normal(KEY, (64, 2))
    found = jax.jit(lambda: flow_maps.transport(GAUSSIAN.denoiser(FLOW), FLOW, eps, 64))().straightness
    t = (np.arange(20_000)[:, None] + 0.5) / 20_000
    std = np.sqrt((1 - t) ** 2 * np.asarray(STD) ** 2 + t**2)
    variance = ((t - (1 - t) * np.asarray(STD) ** 2) / std).var(0)
    np.testing.assert_allclose(found, (np.asarray(eps) ** 2 * variance).mean(1), rtol=5e-3)
    assert found.min() > 0


def joined(to_x, to_eps):
    """The denoiser of the lines between eps and x = to_x(eps): to_eps(z, t) is the eps of the line at z."""

    def denoiser(z, log_snr):
        eps = to_eps(z, jax.nn.sigmoid(-log_snr / 2))
        return denoising.Denoised(to_x(eps), eps)

    return denoiser


def check_one_step_is_many(denoiser, eps, x):
    found = [jax.jit(lambda n=n: flow_maps.transport(denoiser, FLOW, eps, n))() for n in (1, 16)]
    for each in found:
        np.testing.assert_allclose(each.x, x, rtol=1e-3, atol=4e-3)
        assert each.straightness.max() < 1e-5


def test_the_reflow_of_a_gaussian_is_straight():
    eps = jax.random.normal(KEY, (64, 2))
    straight = joined(lambda eps: MEAN + STD * eps, lambda z, t: (z - (1 - t) * MEAN) / ((1 - t) * STD + t))
    check_one_step_is_many(straight, eps, MEAN + STD * eps)


def test_the_reflow_of_a_mixture_is_straight_where_its_first_flow_is_not():
    """On a line the ODE keeps the order of points, so lines between eps and x do not cross: one flow has them all."""
    data, table = Mixture(jnp.array([[-1.0], [0.5]]), jnp.array([0.2])), jnp.linspace(-5, 5, 2001)
    pairs = jax.jit(lambda: flow_maps.transport(data.denoiser(FLOW), FLOW, table[:, None], 128))()
    middle = pairs.straightness[800:1201]
    assert middle.mean() > 0.05
    ends = pairs.x[:, 0]
    assert (jnp.diff(ends) > 0).all()

    def to_eps(z, t):
        return jnp.interp(z, (1 - t) * ends + t * table, table)

    check_one_step_is_many(
        joined(lambda e: jnp.interp(e, table, ends), to_eps), table[800:1201, None], pairs.x[800:1201]
    )


# The model -------------------------------------------------------------------------------------------------------


def build(**fields):
    cfg = validate(reflow.Config, SMALL | fields, "config.model")
    return reflow.from_config(cfg, {"net": Optimizer(optax.adam(1e-2))})


def batch_of(n=B, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 1))
    numbers = jnp.arange(n)
    return {"image": jnp.asarray(pixels, jnp.uint8), "label": numbers % 3, "index": numbers, "valid": numbers < n - 1}


@pytest.fixture(scope="module")
def random():
    """A conditional model, a state with random parameters, a batch and its pairs."""
    model, batch = build(num_classes=3, class_dropout=0.2), batch_of()
    state = jax.jit(model.init)(KEY, batch)
    nets = {}
    for number, name in enumerate(state.nets):
        leaves, tree = jax.tree.flatten(state.nets[name].params)
        keys = jax.random.split(jax.random.key(number), len(leaves))
        params = tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])
        nets[name] = dataclasses.replace(state.nets[name], params=params)
    state = dataclasses.replace(state, nets=nets)
    return model, state, batch, jax.jit(model.preprocess)(state, batch)


def test_the_image_of_a_pair_is_what_the_teacher_makes_of_the_noise_for_the_label(random):
    model, state, batch, pairs = random
    assert isinstance(model, Preprocesses) and set(state.nets) == {"net", "teacher"}
    assert pairs["noise"].shape == pairs["made"].shape == (B, 3, 4, 4, 1)
    assert abs(float(pairs["noise"].mean())) < 0.2 and float(pairs["noise"].std()) == pytest.approx(1, abs=0.15)
    denoiser = model.denoiser(state.nets["teacher"].variables, batch["label"])
    for i in range(3):
        found = flow_maps.transport(denoiser, model.schedule, pairs["noise"][:, i], 4)
        np.testing.assert_allclose(pairs["made"][:, i], found.x, rtol=1e-3, atol=1e-4)
        if not i:
            np.testing.assert_allclose(pairs["teacher_straightness"], found.straightness, rtol=1e-3)


def test_the_pairs_of_an_example_are_its_own(random):
    """Not of the batch that it comes in; another example of the same index, as in another split, has others."""
    model, state, batch, pairs = random
    preprocess, order = jax.jit(model.preprocess), jnp.array([4, 0, 3, 1, 5, 2])
    turned = preprocess(state, {name: value[order] for name, value in batch.items()})
    np.testing.assert_array_equal(turned["noise"], pairs["noise"][order])
    np.testing.assert_allclose(turned["made"], pairs["made"][order], rtol=1e-3, atol=1e-4)
    other = preprocess(state, batch | {"image": batch_of(seed=1)["image"]})
    assert (other["noise"] != pairs["noise"]).all()
    flat = np.asarray(pairs["noise"]).reshape(3 * B, -1)
    assert len(np.unique(flat, axis=0)) == 3 * B


def test_cached_pairs_stand_for_the_images(random):
    model, state, batch, pairs = random
    cached = {name: value for name, value in batch.items() if name != "image"} | pairs
    here, there = (jax.jit(model.eval_step)(state, each, KEY) for each in (batch, cached))
    assert set(here) == {"loss", "straightness", "teacher_straightness"}
    for name in here:
        np.testing.assert_allclose(here[name].total, there[name].total, rtol=1e-4, err_msg=name)
        assert here[name].total[-1] == here[name].weight[-1] == 0  # padding


@pytest.mark.slow
def test_cached_pairs_stand_for_the_images_at_each_time(random):
    model, state, batch, pairs = random
    here, there = (
        jax.jit(model.timed_loss)(state, each, jnp.linspace(0.1, 0.9, B), KEY) for each in (batch, batch | pairs)
    )
    np.testing.assert_allclose(here, there, rtol=1e-4)


def test_all_pairs_of_an_example_are_drawn(random):
    model, _, batch, pairs = random
    draw = jax.jit(lambda rng: model.pair(batch | pairs, rng))
    seen = np.zeros((B, 3), int)
    for number in range(30):
        x, eps = draw(jax.random.key(number))
        same = np.asarray((pairs["noise"] == eps[:, None]).all((2, 3, 4)))
        assert (same.sum(1) == 1).all()
        np.testing.assert_array_equal(x, pairs["made"][same])
        seen += same
    assert seen.min() > 0 and seen.max() < 24


class Straight(nn.Module):
    """The velocity of the lines between eps and x = 0.3 + 0.5 eps, from the scaled input."""

    def __call__(self, x, log_snr, label, train=False):
        alpha, sigma = (rows(scale, x) for scale in FLOW.scales(log_snr))
        z = x * jnp.sqrt((alpha * denoising.SIGMA_DATA) ** 2 + sigma**2)
        eps = (z - alpha * 0.3) / (alpha * 0.5 + sigma)
        return 0.5 * eps - 0.3


def test_the_straight_flow_of_the_pairs_has_no_loss_and_samples_in_one_step():
    model, batch = dataclasses.replace(build(), network=Straight()), batch_of()
    net = Net.frozen({"params": {}})
    state = State(jnp.int32(0), {"net": net, "teacher": net})
    pairs = jax.jit(model.preprocess)(state, batch)
    np.testing.assert_allclose(pairs["made"], 0.3 + 0.5 * pairs["noise"], atol=1e-3)
    means = jax.jit(model.eval_step)(state, batch, KEY)
    for mean in means.values():
        assert mean.total.max() < 1e-5
    one, many = (np.asarray(base.sampler(model, 4, reflow.Sampling(steps=n))(state, KEY), int) for n in (1, 9))
    np.testing.assert_allclose(one, many, atol=1)
    assert one.std() > 20
    bent = dataclasses.replace(model, target="v")  # the same network read as another target errs
    assert jax.jit(bent.eval_step)(state, batch | pairs, KEY)["loss"].total[:-1].min() > 1e-3


def test_a_step_moves_the_student_alone(random):
    model, state, batch, pairs = random
    after, _ = jax.jit(model.train_step)(state, batch | pairs, KEY)
    assert_same(state.nets["teacher"], after.nets["teacher"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.nets["net"].params, after.nets["net"].params)
    assert any(jax.tree.leaves(moved)) and state.nets["teacher"].opt == ()


@pytest.mark.slow
def test_a_run_starts_from_a_flow_and_keeps_its_pairs(tmp_path):
    first = train(smoke("experiments/diffusion/digits.py:kind=flow", "evals={}"), tmp_path / "first")
    more = ("evals={}", "model.target=u", f"init_from.workdir={tmp_path / 'first'}")
    experiment = smoke("experiments/diffusion/reflow.py", *more)
    state = train(experiment, tmp_path / "run")
    assert_same(first.nets["net"].averaged["params"], state.nets["teacher"].params)
    program = Program(experiment)
    whole = preprocessed(program, state, RunDir(tmp_path / "run").path / "cache")
    assert len(list((tmp_path / "run/cache").iterdir())) == 1
    batch = next(iter(whole.batches("test")))
    found = jax.jit(program.model.preprocess)(state, {name: batch[name] for name in ("image", "label", "index")})
    np.testing.assert_array_equal(found["noise"], batch["noise"])
    np.testing.assert_allclose(found["made"], batch["made"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(scaling="vp"), "scaling: expected 'flow', got 'vp'"),
        (dict(pairs=0), "pairs: expected"),
        (dict(pair_steps=0), "pair_steps: expected"),
    ],
)
def test_what_a_reflow_cannot_be_is_refused(fields, message):
    with pytest.raises(Exception, match=message):
        build(**fields)


def test_a_sampler_that_adds_noise_is_refused():
    validate(reflow.Sampling, dict(solver="heun"), "config.sampling")
    with pytest.raises(ConfigError, match=r"config\.sampling\.solver: expected 'ddim', 'euler', 'heun' or"):
        validate(reflow.Sampling, dict(solver="ancestral"), "config.sampling")
