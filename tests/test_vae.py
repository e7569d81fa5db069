"""The VAE against what is known exactly: closed forms, bounds, keys, schedules."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from vaes import SMALL, batch_of, started

from gen_jax.core import likelihoods, losses, ops
from gen_jax.core.gradients import Optimizer
from gen_jax.errors import ConfigError
from gen_jax.models import vae


def model_of(frozen=(), lr=1e-2, **fields):
    return vae.from_config(vae.Config(**(SMALL | fields)), {"net": Optimizer(optax.adam(lr), frozen=frozen)})


KINDS = [
    dict(),
    dict(kind="ae"),
    dict(beta=4.0, free_bits=0.2, warmup="linear", warmup_steps=5),
    dict(num_classes=3, k=3),
    dict(net="conv", widths=(4, 4), likelihood="bernoulli_grey"),
    dict(net="residual", widths=(4,), likelihood="logistic_mixture", image=(4, 4, 3)),
    dict(net="linear", widths=(), likelihood="gaussian"),
    dict(dtype="bfloat16", likelihood="gaussian"),
]


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_every_variant_learns_and_shows(fields):
    model = model_of(**fields)
    shape = fields.get("image", (4, 4, 1))
    batch = batch_of(shape=shape)
    state = jax.jit(model.init)(jax.random.key(0), batch)
    step = jax.jit(model.train_step)
    state, first = step(state, batch, jax.random.key(1))
    for _ in range(30):
        state, last = step(state, batch, jax.random.key(1))
    assert last["rec"].total < first["rec"].total and np.isfinite(last["loss"].total)

    def shown(function, *args):
        return jax.eval_shape(function, state, *args)

    assert shown(model.eval_step, batch, jax.random.key(1))["rec"].total.shape == (6,)
    image = shown(model.reconstruct, batch, jax.random.key(2))
    assert image.shape == (6, *shape) and image.dtype == jnp.uint8
    assert shown(model.encode, batch).shape == (6, 3)
    if fields.get("kind") != "ae":
        assert shown(lambda s: model.sample(s, jax.random.key(2), 5, vae.Sampling())).shape == (5, *shape)
        assert shown(lambda s: model.log_prob(s, batch, jax.random.key(2), 4)).shape == (6,)


@pytest.fixture(scope="module")
def plain():
    """The default model after a few steps, its jitted evaluation and likelihood."""
    model, batch = model_of(), batch_of()
    log_prob = jax.jit(model.log_prob, static_argnums=3)
    return model, batch, started(model, batch), jax.jit(model.eval_step), log_prob


def test_terms_add_up_in_nats_per_example():
    """A mean over pixels beside a sum over latents would miss both equalities."""
    model, batch = model_of(beta=2.0), batch_of()
    state = started(model, batch)
    variables = state.nets["net"].variables
    means = jax.jit(model.eval_step)(state, batch, jax.random.key(5))
    x = model._observe(batch, None, train=False)
    mean, log_var = model.network.apply(variables, x, None, method="encode")
    noise_keys, _ = ops.split(ops.row_keys(jax.random.key(5), batch["index"]), 2)
    z = mean + jnp.exp(0.5 * log_var) * ops.normal(noise_keys, (6, 1, 3))[:, 0]
    p = jax.nn.sigmoid(model.network.apply(variables, z, None, method="decode"))
    rec = -jnp.log(jnp.where(x == 1, p, 1 - p)).reshape(6, 16).sum(1)
    kl = 0.5 * (mean**2 + jnp.exp(log_var) - 1 - log_var).sum(1)
    np.testing.assert_allclose(means["rec"].total, rec, rtol=1e-4)
    np.testing.assert_allclose(means["kl"].total, kl, rtol=1e-4)
    np.testing.assert_allclose(means["elbo"].total, -rec - kl, rtol=1e-4)
    np.testing.assert_allclose(means["loss"].total, rec + 2 * kl, rtol=1e-4)


def test_bound_with_one_sample_is_the_elbo_and_more_samples_tighten_it(plain):
    model, batch, state, eval_step, _ = plain
    net = state.nets["net"]  # large weights: a posterior that is far from exact
    state = state.replace(nets={"net": net.replace(params=jax.tree.map(lambda w: 3 * w, net.params))})

    def bound(k, repeats=200):
        one = jax.jit(lambda i: model.log_prob(state, batch, jax.random.key(i), k).mean())
        values = np.asarray([one(i) for i in range(repeats)])
        return values.mean(), values.std() / repeats**0.5

    elbo = np.mean([eval_step(state, batch, jax.random.key(i))["elbo"].total.mean() for i in range(200)])
    bounds = [bound(k) for k in (1, 4, 16)]
    assert abs(bounds[0][0] - elbo) < 5 * bounds[0][1]
    for (low, low_error), (high, high_error) in itertools.pairwise(bounds):
        assert high - low > 3 * (low_error + high_error)


def test_training_bound_of_k_samples_equals_log_prob_s():
    """The IWAE term and `log_prob` are one estimator: equal where they are given equal noise."""
    model, batch = model_of(k=5), batch_of()
    state = started(model, batch)
    x, mean, log_var = model._posterior(state.nets["net"].variables, batch)
    noise = jax.random.normal(jax.random.key(0), (6, 5, 3))
    log_px, ratio = model._weigh(state.nets["net"].variables, x, None, mean, log_var, noise)
    z = mean[:, None] + jnp.exp(0.5 * log_var)[:, None] * noise
    log_p = losses.gaussian_log_prob(jnp.zeros(3), jnp.zeros(3), z, event=1)
    log_q = losses.gaussian_log_prob(mean[:, None], 0.5 * log_var[:, None], z, event=1)
    np.testing.assert_allclose(ratio, log_p - log_q, rtol=1e-4, atol=1e-4)
    expected = jnp.log(jnp.exp(log_px + log_p - log_q).mean(1))
    np.testing.assert_allclose(vae._log_mean_exp(log_px + ratio), expected, rtol=1e-5)


def test_log_prob_does_not_depend_on_chunks_or_batch(plain, monkeypatch):
    model, batch, state, _, log_prob = plain
    rng = jax.random.key(3)
    whole = log_prob(state, batch, rng, 50)
    alone = log_prob(state, jax.tree.map(lambda x: x[2:4], batch), rng, 50)
    np.testing.assert_allclose(whole[2:4], alone, rtol=1e-5)
    assert not np.allclose(whole, log_prob(state, batch, jax.random.key(4), 50))
    monkeypatch.setattr(vae, "LOG_PROB_ROWS", 6 * 7)  # 7 samples at a time: the last chunk is not full
    chunked = jax.jit(lambda state, batch, rng: model.log_prob(state, batch, rng, 50))
    np.testing.assert_allclose(whole, chunked(state, batch, rng), rtol=1e-5)


def test_evaluation_noise_belongs_to_the_example_and_bits_to_the_set(plain):
    _, batch, state, eval_step, _ = plain
    whole = eval_step(state, batch, jax.random.key(1))
    half = eval_step(state, jax.tree.map(lambda x: x[3:], batch), jax.random.key(1))
    for name in whole:
        np.testing.assert_allclose(whole[name].total[3:], half[name].total, rtol=1e-5)
    other = eval_step(state, batch, jax.random.key(2))
    np.testing.assert_array_equal(whole["kl"].total, other["kl"].total)  # the same bits, whatever the key
    assert not np.allclose(whole["rec"].total, other["rec"].total)  # other latents


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [("none", [3, 3, 3, 3, 3]), ("linear", [0, 0.75, 1.5, 3, 3]), ("cyclical", [0, 1.5, 3, 0, 3])],
)
def test_warmup_of_the_divergence(warmup, expected):
    model = model_of(beta=3.0, warmup=warmup, warmup_steps=0 if warmup == "none" else 8)
    got = [model.kl_weight(jnp.int32(step)) for step in (0, 2, 4, 8, 14)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_warmup_reaches_the_training_loss_and_not_evaluation():
    model, batch = model_of(warmup="linear", warmup_steps=10), batch_of()
    state = started(model, batch, steps=5)
    _, train = jax.jit(model.train_step)(state, batch, jax.random.key(0))
    np.testing.assert_allclose(train["loss"].total, train["rec"].total + 0.5 * train["kl"].total, rtol=1e-5)
    test = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
    np.testing.assert_allclose(test["loss"].total, -test["elbo"].total, rtol=1e-5)


def test_free_bits_bound_the_loss():
    model, batch = model_of(free_bits=1.5), batch_of()
    means = jax.jit(model.eval_step)(jax.jit(model.init)(jax.random.key(0), batch), batch, jax.random.key(0))
    assert (means["kl"].total < 3 * 1.5).any()
    assert (means["loss"].total >= means["rec"].total + 3 * 1.5 - 1e-4).all()


def test_frozen_encoder_stays_and_keeps_no_moments():
    model, batch = model_of(frozen=("encoder/.*", "head/.*")), batch_of()
    before = jax.jit(model.init)(jax.random.key(0), batch)
    after, _ = jax.jit(model.train_step)(before, batch, jax.random.key(1))
    before, after = before.nets["net"], after.nets["net"]
    for part in ("encoder", "head"):
        jax.tree.map(np.testing.assert_array_equal, before.params[part], after.params[part])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params["decoder"], after.params["decoder"])
    assert all(jax.tree.leaves(moved))
    sizes = sum(leaf.size for leaf in jax.tree.leaves(after.opt) if leaf.ndim)
    assert sizes == 2 * sum(leaf.size for leaf in jax.tree.leaves(after.params["decoder"]))


def test_labels_steer_the_conditional_model():
    model, batch = model_of(num_classes=3), batch_of()
    state = started(model, batch)
    zero, one = (model.sample(state, jax.random.key(0), 4, vae.Sampling(label=i)) for i in (0, 1))
    assert (zero != one).any()
    turns = model.sample(state, jax.random.key(0), 4, vae.Sampling())
    np.testing.assert_array_equal(turns[0], zero[0])
    np.testing.assert_array_equal(turns[1], one[1])


def test_a_conditional_decoder_needs_labels():
    model, batch = model_of(num_classes=3), batch_of()
    state, z = started(model, batch), jnp.zeros((2, 3))
    with pytest.raises(ConfigError, match=r"decode: expected labels, since model\.num_classes is 3"):
        model.decode(state, z)
    zero, two = (model.decode(state, z, jnp.full(2, i)) for i in (0, 2))
    assert (zero != two).any()


def test_only_a_distribution_over_pixels_is_a_likelihood():
    """The probabilities of all images of one pixel sum to 1, for those that say so."""
    for name, expected in (("bernoulli", True), ("bernoulli_grey", False), ("logistic_mixture", True)):
        model = model_of(likelihood=name)
        levels = jnp.arange(2 if name == "bernoulli" else 256) / (1 if name == "bernoulli" else 255)
        outputs = jnp.full((1, 1, 1, model.likelihood.size), 0.3)
        log_prob = model.likelihood.log_prob(outputs, levels[:, None, None, None])
        assert model.normalised_likelihood == expected
        assert (abs(float(jax.nn.logsumexp(log_prob))) < 1e-3) == expected
    assert model_of(likelihood="gaussian").normalised_likelihood


def test_mean_of_the_logistic_mixture_is_that_of_its_256_levels():
    likelihood = likelihoods.LogisticMixture(mixtures=3)
    outputs = 2 * jax.random.normal(jax.random.key(0), (4, 2, 2, 2 * likelihood.size))
    levels = jnp.arange(256) / 255
    logits, means, log_scales = (part[..., None, :] for part in likelihood._split(outputs))
    log_prob = losses.logistic_mixture_log_prob(logits, means, log_scales, 2 * levels - 1, event=0)  # [4, 2, 2, 2, 256]
    np.testing.assert_allclose(likelihood.mean(outputs), (jnp.exp(log_prob) * levels).sum(-1), rtol=1e-3, atol=1e-4)


def test_averaged_weights_are_what_evaluation_reads(plain):
    _, batch, live, eval_step, _ = plain
    averaged = live.nets["net"].replace(
        ema={"params": jax.tree.map(jnp.zeros_like, live.nets["net"].params), "stats": {}}
    )
    zeroed = dataclasses.replace(live, nets={"net": averaged})
    means = eval_step(zeroed, batch, jax.random.key(0))
    np.testing.assert_allclose(means["rec"].total, 16 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose(means["kl"].total, 0, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        dict(net="linear", widths=()),
        dict(net="conv", widths=(4, 4, 4)),
        dict(warmup="linear"),
        dict(k=2, free_bits=0.1),
        dict(kind="ae", beta=2.0),
        dict(likelihood="poisson"),
        dict(latent=0),
    ],
    ids=str,
)
def test_contradictions_are_refused(fields):
    with pytest.raises(ValueError, match=r"expected|Input should"):
        vae.Config(**(SMALL | fields))
