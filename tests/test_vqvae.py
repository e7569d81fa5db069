"""VQ-VAE and the prior over its codes: the codebook against closed forms, gradients, restarts, causality."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core.gradients import Optimizer
from gen_jax.errors import ConfigError
from gen_jax.models import code_prior, vqvae
from gen_jax.models.base import Decodes, Encodes, Preprocesses, Quantises
from gen_jax.nets import vq
from gen_jax.settings import validate

ROOT = jax.random.key(0)
B, K = 6, 8
FIRST = dict(image=(8, 8, 1), widths=(8,), codes=K, code_width=4)


@functools.cache
def first_stage():
    """A model, a batch, its first state."""
    model = vqvae.from_config(vqvae.Config(**FIRST), {"net": Optimizer(optax.adam(1e-2), ema_decay=0.5)})
    batch = batch_of(B)
    return model, batch, jax.jit(model.init)(ROOT, batch)


@functools.cache
def prior(num_classes=3):
    cfg = code_prior.Config(first_stage=FIRST, width=16, layers=2, heads=2, dropout=0.0, num_classes=num_classes)
    model = code_prior.from_config(cfg, {"net": Optimizer(optax.adam(1e-2))})
    state = jax.jit(model.init)(ROOT, batch_of(B))
    net = state.nets["net"]
    # ten times what it starts with: logits that are far from uniform
    return model, state.replace(
        nets=state.nets | {"net": net.replace(params=jax.tree.map(lambda x: 10 * x, net.params))}
    )


def batch_of(rows):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (rows, 8, 8, 1)), jnp.uint8),
        "label": jnp.arange(rows, dtype=jnp.int32) % 3,
        "index": jnp.arange(rows),
        "valid": jnp.ones(rows, bool),
    }


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_nearest_is_the_euclidean_nearest():
    z, table = jax.random.normal(ROOT, (5, 3, 4)), 2 * jax.random.normal(jax.random.key(1), (K, 4))
    distance = np.linalg.norm(np.asarray(z)[..., None, :] - np.asarray(table), axis=-1)
    np.testing.assert_array_equal(vq.nearest(z, table), distance.argmin(-1))


def test_straight_through():
    z, q = jax.random.normal(ROOT, (2, 5, 4))
    np.testing.assert_allclose(vq.straight_through(z, q), q, rtol=1e-5, atol=1e-6)
    dz, dq = jax.grad(lambda z, q: (vq.straight_through(z, q) ** 3).sum(), argnums=(0, 1))(z, q)
    np.testing.assert_allclose(dz, 3 * q**2, rtol=1e-4, atol=1e-5)  # the identity's, at q
    np.testing.assert_array_equal(dq, 0)


def test_codebook_goes_to_the_means_of_its_clusters():
    z = jax.random.normal(ROOT, (30, 4))
    codes = jnp.arange(30, dtype=jnp.int32) % 3  # codes 3 and up are not used
    book = vq.init_codebook(ROOT, 5, 4)
    after = book
    for _ in range(300):
        after = vq.follow(after, z, codes, 0.9)
    means = np.stack([np.asarray(z)[i::3].mean(axis=0) for i in range(3)])
    np.testing.assert_allclose(vq.vectors(after)[:3], means, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["counts"][:3], 10, rtol=1e-5)
    once = vq.follow(book, z, codes, 0.9)  # eqs. 6 to 8 by hand
    sums = 0.9 * book["sums"][0] + 0.1 * z[::3].sum(axis=0)
    np.testing.assert_allclose(vq.vectors(once)[0], sums / (0.9 + 0.1 * 10), rtol=1e-4)
    np.testing.assert_allclose(vq.vectors(once)[3:], vq.vectors(book)[3:], rtol=1e-5)  # unused codes stay


def test_dead_codes_restart_on_data_and_live_ones_stay():
    z = jax.random.normal(ROOT, (30, 4))
    book = {"counts": jnp.array([5.0, 0.5, 1.0, 0.0]), "sums": jnp.full((4, 4), 100.0)}
    after = vq.restart_dead(book, z, ROOT, 1.0)
    np.testing.assert_array_equal(vq.vectors(after)[jnp.array([0, 2])], vq.vectors(book)[jnp.array([0, 2])])
    for i in (1, 3):
        assert float(jnp.abs(z - vq.vectors(after)[i]).sum(axis=1).min()) < 1e-5
        assert float(after["counts"][i]) == 1
    assert same(vq.restart_dead(book, z, ROOT, 0.0), book)


def test_perplexity():
    np.testing.assert_allclose(vq.perplexity(jnp.arange(16) % 4, K), 4, rtol=1e-5)
    np.testing.assert_allclose(vq.perplexity(jnp.zeros((3, 3), jnp.int32), K), 1, rtol=1e-5)


def test_terms_written_out():
    model, batch, state = first_stage()
    variables = state.nets["net"].variables
    run = jax.jit(lambda v, b, r: model.terms(v, b, r, step=state.step, train=True))
    terms = run(variables, batch, ROOT)
    x = np.asarray(batch["image"]) / 255
    encode = jax.jit(functools.partial(model.network.apply, method="encode"))
    z = np.asarray(encode({"params": variables["params"]}, jnp.asarray(x, jnp.float32)))
    table = np.asarray(vq.vectors(variables["codebook"]))
    codes = np.linalg.norm(z[..., None, :] - table, axis=-1).argmin(-1)
    rec = jax.jit(functools.partial(model.network.apply, method="decode"))(
        {"params": variables["params"]}, table[codes]
    )
    mse, commitment = ((np.asarray(rec) - x) ** 2).mean((1, 2, 3)), ((z - table[codes]) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(terms.means["mse"].total, mse, rtol=1e-4)
    np.testing.assert_allclose(terms.means["commitment"].total, commitment, rtol=1e-4)
    np.testing.assert_allclose(terms.means["loss"].total, mse / 0.1 + 0.25 * commitment, rtol=1e-4)
    counts = np.bincount(codes.ravel(), minlength=K)
    share = counts[counts > 0] / counts.sum()
    np.testing.assert_allclose(terms.means["batch_perplexity"].total, np.exp(-(share * np.log(share)).sum()), rtol=1e-4)
    followed = vq.follow(variables["codebook"], jnp.asarray(z), jnp.asarray(codes), 0.99)
    alive = np.asarray(followed["counts"]) >= 1
    np.testing.assert_allclose(terms.stats["codebook"]["counts"][alive], followed["counts"][alive], rtol=1e-4)


def test_training_lowers_the_error_and_uses_the_codebook():
    model, batch, state = first_stage()
    step = jax.jit(model.train_step)
    state, first = step(state, batch, ROOT)
    for _ in range(60):
        state, means = step(state, batch, ROOT)
    assert float(means["mse"].total) < 0.5 * float(first["mse"].total)
    assert float(means["batch_perplexity"].total / B) > 2
    evaluated = jax.jit(model.eval_step)(state, batch, ROOT)
    assert set(evaluated) == {"loss", "mse", "commitment"}  # a batch's perplexity is no mean over examples


def test_encode_and_decode():
    model, batch, state = first_stage()
    assert isinstance(model, Encodes) and isinstance(model, Decodes) and isinstance(model, Quantises)
    codes = jax.jit(model.encode)(state, batch)
    assert codes.shape == (B, 4, 4) and codes.dtype == jnp.int32 and int(codes.min()) >= 0 and int(codes.max()) < K
    images = jax.jit(model.decode)(state, codes)
    assert images.shape == (B, 8, 8, 1) and images.dtype == jnp.uint8


def test_sides_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="divisible by 2"):
        validate(vqvae.Config, dict(FIRST, widths=(4, 4, 4, 4)), "config.model")


def prior_logits(codes, label, num_classes=3):
    """Of codes [B, 16], without a cache: [B, 16, K]."""
    model, state = prior(num_classes)
    return model.prior.logits(state, {"values": codes.reshape(-1, 4, 4, 1), "label": label})


def test_prior_is_causal_and_sees_the_label():
    codes = jax.random.randint(ROOT, (2, 16), 0, K)
    run = prior_logits
    label = jnp.zeros(2, jnp.int32)
    before, after = run(codes, label), run(codes.at[:, 5].add(1) % K, label)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (np.abs(before - after)[:, 6:].max(axis=(0, 2)) > 1e-6).all()
    assert (np.abs(before - run(codes, label + 1)).max(axis=(0, 2)) > 1e-6).all()


def test_prior_leaves_the_first_stage_alone():
    model, state = prior()
    batch = batch_of(B)
    after, _ = jax.jit(model.train_step)(state, batch, ROOT)
    assert same(after.nets["first_stage"], state.nets["first_stage"])
    assert not same(after.nets["net"].params, state.nets["net"].params)
    assert state.nets["first_stage"].opt == () and int(after.step) == 1


def test_prior_on_codes_equals_prior_on_images():
    model, state = prior()
    batch = batch_of(B)
    assert isinstance(model, Preprocesses)
    codes = jax.jit(model.preprocess)(state, batch)
    assert codes["latents"].shape == (B, 4, 4) and codes["latents"].dtype == jnp.uint16
    cached = {k: v for k, v in batch.items() if k != "image"} | codes
    a, b = jax.jit(model.eval_step)(state, batch, ROOT), jax.jit(model.eval_step)(state, cached, ROOT)
    np.testing.assert_allclose(a["loss"].total, b["loss"].total, rtol=1e-5)
    np.testing.assert_array_equal(a["loss"].weight, 16)


def test_uniform_prior_gives_log_codes():
    model, state = prior()
    flat = jax.tree.map(jnp.zeros_like, state.nets["net"].params)
    nets = state.nets | {"net": state.nets["net"].replace(params=flat)}
    loss = jax.jit(model.eval_step)(state.replace(nets=nets), batch_of(B), ROOT)["loss"]
    np.testing.assert_allclose(loss.total / loss.weight, math.log(K), rtol=1e-6)


def test_prior_loss_is_the_cross_entropy_of_the_true_codes():
    """-log softmax(logits) of code t after the true codes before it: nothing that the prior would draw itself."""
    model, state = prior()
    batch = batch_of(B) | {"latents": jax.random.randint(jax.random.key(5), (B, 4, 4), 0, K)}
    codes = np.asarray(batch["latents"]).reshape(B, 16)
    loss = jax.jit(model.eval_step)(state, batch, ROOT)["loss"]
    logits = np.asarray(prior_logits(codes, batch["label"]), np.float64)
    odds = np.exp(logits)
    nats = -np.log(np.take_along_axis(odds, codes[..., None], axis=-1)[..., 0] / odds.sum(-1))  # [B, 16]
    assert nats.std() > 1e-3
    np.testing.assert_allclose(loss.total, nats.sum(1), rtol=1e-5)
    np.testing.assert_array_equal(loss.weight, 16)
    # with the last code another, only its own loss moves
    last = batch["latents"].at[:, 3, 3].add(1) % K
    other = jax.jit(model.eval_step)(state, batch | {"latents": last}, ROOT)["loss"].total
    rest = nats[:, :-1].sum(1)
    picked = np.take_along_axis(odds[:, -1], np.asarray(last)[:, 3, 3, None], axis=-1)[:, 0]
    np.testing.assert_allclose(other, rest - np.log(picked / odds[:, -1].sum(-1)), rtol=1e-5)


@pytest.mark.parametrize("num_classes", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_prior_samples(num_classes):
    model, state = prior(num_classes)
    sample = jax.jit(lambda rng, options: model.sample(state, rng, 5, options), static_argnums=1)
    images = sample(ROOT, code_prior.Sampling())
    assert images.shape == (5, 8, 8, 1) and images.dtype == jnp.uint8
    # greedy: each code is the likeliest given those before it
    options = code_prior.Sampling(temperature=0.0, label=2)
    codes = jax.jit(lambda: model.sample_codes(state, ROOT, 5, options))().reshape(5, -1)
    label = jnp.full(5, 2 if num_classes else 0)
    logits = prior_logits(codes, label, num_classes)
    np.testing.assert_array_equal(logits.argmax(-1), codes)


def test_prior_learns_the_codes():
    model, state = prior()
    batch = batch_of(B) | {"latents": jax.random.randint(ROOT, (B, 4, 4), 0, K).at[3:].set(0)}
    _, means = jax.jit(lambda s: jax.lax.scan(lambda s, _: model.train_step(s, batch, ROOT), s, length=200))(state)
    nats = means["loss"].total / means["loss"].weight
    assert float(nats[0]) > 1.5 > 0.4 > float(np.median(nats[-100:]))  # single steps spike
