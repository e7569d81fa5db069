"""Masked diffusion against enumeration: the bound is the mean over all orders, samplers draw from a known chain."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.core import filters, masking
from gen_jax.core.masking import CLOSED, MASK, RATES, Step

KEY = jax.random.key(0)
V, T = 3, 4
ALL = np.array(list(itertools.product(range(V), repeat=T)))  # [81, T]
SETS = np.array(list(itertools.product((False, True), repeat=T)))[1:]  # [15, T], hidden
FREE = lambda logits: logits  # noqa: E731

START = np.array([0.6, 0.3, 0.1])
MOVES = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.3, 0.4]])
CHAIN = START[ALL[:, 0]] * np.prod([MOVES[ALL[:, i], ALL[:, i + 1]] for i in range(T - 1)], axis=0)  # [81]


PATTERNS = np.array(list(itertools.product(range(-1, V), repeat=T)))  # [256, T] of what is seen
FITS = ((PATTERNS[:, None] == ALL) | (PATTERNS[:, None] < 0)).all(-1) * CHAIN  # [256, 81]
# log p(token | those that are seen): of the chain, exactly; and without any consistent joint distribution
EXACT = np.einsum("ps,stv->ptv", FITS, np.eye(V)[ALL]) / FITS.sum(1)[:, None, None]
TABLES = {
    "chain": np.log(np.maximum(EXACT, 1e-30)),
    "arbitrary": np.log(np.random.default_rng(0).dirichlet(np.ones(V), (len(PATTERNS), T))),
}


def denoiser_of(name):
    table = jnp.asarray(TABLES[name], jnp.float32)
    return lambda tokens: table[(jnp.maximum(tokens, MASK) + 1) @ (V + 1) ** jnp.arange(T)[::-1]]


posterior, arbitrary = denoiser_of("chain"), denoiser_of("arbitrary")


def by_orders(name, x):
    """-log p of one sequence where tokens are drawn one by one, in the mean over all 24 orders."""
    total = 0.0
    for order in itertools.permutations(range(T)):
        seen = np.full(T, MASK)
        for i in order:
            total -= TABLES[name][(seen + 1) @ (V + 1) ** np.arange(T)[::-1], i, x[i]]
            seen[i] = x[i]
    return total / math.factorial(T)


def by_sets(denoiser, x):
    """The sum over k of the mean nats of k hidden tokens, in the mean over all sets of k."""
    tokens = jnp.broadcast_to(x, (len(SETS), T))
    nats = masking.mean_nats(denoiser(jnp.where(SETS, MASK, tokens)), tokens, jnp.asarray(SETS))
    sizes = SETS.sum(1)
    return sum(float(nats[sizes == k].mean()) for k in range(1, T + 1))


def test_the_bound_is_the_mean_over_all_orders():
    for x in ALL[[5, 50, 77]]:
        assert by_sets(arbitrary, x) == pytest.approx(by_orders("arbitrary", x), rel=1e-5)


def test_it_is_exact_for_the_exact_posterior():
    for x, p in zip(ALL[[0, 20, 44]], CHAIN[[0, 20, 44]], strict=True):
        assert by_sets(posterior, x) == pytest.approx(-math.log(p), rel=1e-5)


@pytest.mark.parametrize("name", RATES)
def test_the_loss_has_the_bound_as_its_mean(name):
    n, x = 20_000, ALL[50]
    t = (jnp.arange(n) + 0.5) / n
    tokens = jnp.broadcast_to(x, (n, T))
    loss = jax.jit(lambda: masking.loss(name, arbitrary, tokens, tokens >= 0, t, KEY))()
    expected, spread = by_orders("arbitrary", x) / T, float(loss.std()) / math.sqrt(n)
    assert abs(float(loss.mean()) - expected) < 4 * spread < 0.05 * expected


@pytest.mark.parametrize("name", RATES)
def test_it_is_the_integral_over_time_of_masks_drawn_token_by_token(name):
    """MDLM's own form: rate' / rate times the nats of all hidden tokens, each hidden with probability `rate`."""
    x = ALL[50]
    tokens = jnp.broadcast_to(x, (len(SETS), T))
    nats = masking.mean_nats(arbitrary(jnp.where(SETS, MASK, tokens)), tokens, jnp.asarray(SETS))
    sizes = SETS.sum(1)
    t = (np.arange(20_000) + 0.5)[:, None] / 20_000
    rate, slope = (
        np.asarray(part, np.float64) for part in jax.jvp(RATES[name], (jnp.asarray(t),), (jnp.ones(t.shape),))
    )
    hidden = rate**sizes * (1 - rate) ** (T - sizes)  # [t, sets]
    integral = (slope / rate * (hidden * np.asarray(nats * sizes)).sum(1, keepdims=True)).mean()
    assert integral == pytest.approx(by_sets(arbitrary, x), rel=1e-3)


def test_hidden_tokens_are_any_of_those_that_count():
    counted = jnp.asarray(np.tile([True, False, True, True, True], (3000, 1)))
    hide = jax.jit(masking.hide)
    for rate, number in ((0.0, 1), (0.3, 2), (0.99, 4), (1.0, 4)):
        for rng in (KEY, jax.random.split(KEY, 3000)):
            hidden = np.asarray(hide(counted, jnp.full(3000, rate), rng))
            assert (hidden.sum(1) == number).all() and not hidden[:, 1].any()
            np.testing.assert_allclose(hidden[:, [0, 2, 3, 4]].mean(0), number / 4, atol=0.04)
    assert not masking.hide(jnp.zeros((2, 5), bool), jnp.ones(2), KEY).any()


def test_rates_go_from_none_to_all():
    t = jnp.linspace(0.0, 1.0, 50)
    for rate in RATES.values():
        values = rate(t)
        np.testing.assert_allclose(values[jnp.array([0, -1])], [0.0, 1.0], atol=1e-6)
        assert (jnp.diff(values) > 0).all()
    assert RATES["cosine"](jnp.float32(0.5)) == pytest.approx(math.sqrt(0.5))


def sampled(sampler, denoiser, tokens, name, steps, restrict=FREE):
    """The tokens [B, T] after each of `steps`: [steps, B, T]."""
    keys = jax.random.split(KEY, len(tokens))

    def body(tokens, i):
        step = masking.step_of(name, i, steps, jax.vmap(jax.random.fold_in, (0, None))(keys, i))
        tokens = masking.SAMPLERS[sampler](denoiser, tokens, step, restrict)
        return tokens, tokens

    return np.asarray(jax.jit(lambda: jax.lax.scan(body, tokens, jnp.arange(steps))[1])())


def shares(tokens):
    codes = tokens @ V ** np.arange(T)[::-1]
    return np.bincount(codes, minlength=V**T) / len(tokens)


@pytest.mark.parametrize("name", ["linear", pytest.param("cosine", marks=pytest.mark.slow)])
def test_the_ancestral_sampler_draws_from_the_chain(name):
    """With the exact posterior, in enough steps that two tokens are hardly ever set at once."""
    n = 8_000
    found = shares(sampled("ancestral", posterior, jnp.full((n, T), MASK), name, 60)[-1])
    noise = np.sqrt(CHAIN * (1 - CHAIN) / n)
    assert (np.abs(found - CHAIN) < 4.5 * noise + 0.03 * CHAIN).all()


def test_tokens_of_one_step_are_independent():
    """All at once: the product of the marginals, not the chain."""
    n = 10_000
    found = shares(sampled("ancestral", posterior, jnp.full((n, T), MASK), "linear", 1)[-1])
    marginal = np.stack([np.bincount(ALL[:, i], weights=CHAIN) for i in range(T)])
    product = np.prod(marginal[np.arange(T), ALL], axis=1)
    np.testing.assert_allclose(found, product, atol=4.5 * math.sqrt(product.max() / n))
    assert np.abs(found - CHAIN).max() > 0.05


@pytest.mark.parametrize("sampler", masking.SAMPLERS)
def test_seen_tokens_stay_and_closed_ones_too(sampler):
    start = jnp.asarray(np.tile([2, MASK, MASK, CLOSED], (500, 1)))
    walk = sampled(sampler, posterior, start, "linear", 5)
    assert (walk[:, :, 0] == 2).all() and (walk[:, :, 3] == CLOSED).all()
    assert (walk[-1, :, 1:3] >= 0).all()
    moved = (walk[1:] != walk[:-1]) & (walk[:-1] != MASK)
    assert not moved.any()


def test_hidden_tokens_become_as_few_as_the_rate_says():
    n, steps = 4000, 4
    hidden = (sampled("ancestral", arbitrary, jnp.full((n, T), MASK), "cosine", steps) == MASK).mean((1, 2))
    np.testing.assert_allclose(hidden, np.sin(np.pi / 2 * np.array([0.75, 0.5, 0.25, 0])), atol=0.03)
    wide = sampled("confidence", lambda tokens: jnp.zeros((*tokens.shape, V)), jnp.full((5, 16), MASK), "linear", 4)
    assert ((wide == MASK).sum(2) == [[12], [8], [4], [0]]).all()
    many = sampled("confidence", arbitrary, jnp.full((5, T), MASK), "linear", 9)
    assert ((many == MASK).sum(2)[:T] == [[3], [2], [1], [0]]).all()  # at least one a step


def test_the_sampler_of_confidence_keeps_what_is_sure(monkeypatch):
    monkeypatch.setattr(masking, "CHOICE", 0.0)
    sharp = jnp.array([0.0, 4.0, 8.0, 2.0])  # the lead of token 1, by position
    logits = lambda tokens: jnp.zeros((*tokens.shape, V)).at[..., 1].set(sharp)  # noqa: E731
    greedy = lambda logits: filters.restricted(logits, 0.0, 0, 1.0, 0.0)  # noqa: E731
    walk = sampled("confidence", logits, jnp.full((3, T), MASK), "linear", T, greedy)
    assert (walk[:-1] == MASK).tolist() == [
        [[True, True, False, True]] * 3,
        [[True, False, False, True]] * 3,
        [[True, False, False, False]] * 3,
    ]
    assert (walk[-1, :, 1:] == 1).all()


def test_the_network_is_not_called_where_nothing_is_set():
    calls = []

    def denoiser(tokens):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.zeros((*tokens.shape, V))

    steps = 60
    walk = sampled("ancestral", denoiser, jnp.full((1, T), MASK), "linear", steps)
    jax.effects_barrier()
    before = np.concatenate([np.full((1, 1, T), MASK), walk[:-1]])
    assert len(calls) == (walk != before).any((1, 2)).sum() <= T
    calls.clear()
    sampled("confidence", denoiser, jnp.full((1, T), MASK), "linear", steps)
    jax.effects_barrier()
    assert len(calls) == T


def test_restrictions_reach_the_draws():
    logits = jnp.asarray(np.tile([0.0, 1.0, 2.0], (20_000, 1, 1)), jnp.float32)
    keys = jax.random.split(KEY, 20_000)

    def drawn(**fields):
        options: Any = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) | fields
        tokens = masking.draw(logits, keys, lambda logits: filters.restricted(logits, **options))
        return np.bincount(np.asarray(tokens).ravel(), minlength=3) / 20_000

    weights = np.exp([0.0, 1.0, 2.0])
    np.testing.assert_allclose(drawn(), weights / weights.sum(), atol=0.015)
    np.testing.assert_allclose(drawn(temperature=0.5), weights**2 / (weights**2).sum(), atol=0.015)
    assert drawn(temperature=0.0).tolist() == [0, 0, 1] == drawn(top_k=1).tolist()
    assert drawn(top_p=0.7)[0] == drawn(min_p=0.3)[0] == 0 < drawn(min_p=0.3)[1]


def test_gumbel_noise_is_finer_than_24_bits():
    """At its large end values of one float32 number repeat; those of two do not, and exceed its largest."""
    keys, shape = jax.random.split(KEY, 16), (2**17,)
    fine = np.asarray(masking.gumbel(keys, shape)).ravel()
    coarse = np.asarray(jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)).ravel()
    assert fine.mean() == pytest.approx(np.euler_gamma, abs=0.005)
    assert fine.std() == pytest.approx(math.pi / math.sqrt(6), abs=0.005)
    for values, repeats in ((fine, False), (coarse, True)):
        large = values[values > 8]
        assert len(large) == pytest.approx(2**21 * math.exp(-8), rel=0.15)
        assert (len(np.unique(large)) < len(large)) == repeats


def test_steps_go_down_to_0():
    keys = jax.random.split(KEY, 2)
    steps = [masking.step_of("cosine", i, 3, keys) for i in range(3)]
    assert isinstance(steps[0], Step) and steps[0].here == 1 and steps[-1].there == 0
    assert [float(step.there) for step in steps[:-1]] == [float(step.here) for step in steps[1:]]
