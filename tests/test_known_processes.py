"""Sources whose entropy is known, and models that reach it: Markov chains and autoregressive processes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import smoke

from gen_jax import config
from gen_jax.core import optim
from gen_jax.data.sources import ar, markov
from gen_jax.errors import ConfigError
from gen_jax.models import linear_ar
from gen_jax.training.program import Program


def test_entropy_rates_in_closed_form():
    p, q = 0.2, 0.5
    two = np.array([[1 - p, p], [q, 1 - q]])
    np.testing.assert_allclose(markov.stationary(two), [q / (p + q), p / (p + q)])

    def h(x):
        return -x * math.log(x) - (1 - x) * math.log(1 - x)

    assert markov.entropy_rate(two) == pytest.approx((q * h(p) + p * h(q)) / (p + q))
    assert markov.entropy_rate(np.full((5, 5), 0.2)) == pytest.approx(math.log(5))
    assert markov.entropy_rate(np.roll(np.eye(4), 1, axis=1)) == pytest.approx(0, abs=1e-12)


def test_the_text_is_the_chains():
    matrix = markov.transitions(4, 3, 0.5)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    text = markov.walk(matrix, 200_000, np.random.default_rng(0))
    counts = np.zeros((4, 4))
    np.add.at(counts, (text[:-1], text[1:]), 1)
    np.testing.assert_allclose(counts / counts.sum(axis=1, keepdims=True), matrix, atol=0.01)
    nats = -np.log(matrix[text[:-1], text[1:]])
    assert nats.mean() == pytest.approx(markov.entropy_rate(matrix), abs=4 * nats.std() / len(nats) ** 0.5)


def test_the_chain_and_the_text_have_seeds_of_their_own():
    def text(**fields):
        return markov.load(markov.Config(length=2_000, states=4, **fields), 0)

    one, again, other = text(), text(), text(split_seed=1)
    np.testing.assert_array_equal(one.tokens["train"], again.tokens["train"])
    assert one.info.entropy == other.info.entropy != text(chain_seed=1).info.entropy
    assert not np.array_equal(one.tokens["train"], other.tokens["train"])
    assert {split: len(tokens) for split, tokens in one.tokens.items()} == dict(train=1600, validation=200, test=200)


@pytest.mark.parametrize(
    "path",
    [
        "experiments/lstm/markov.py",
        pytest.param("experiments/lstm/markov.py:model=transformer", marks=pytest.mark.slow),
    ],
)
def test_a_sequence_model_reaches_the_entropy_of_the_chain(path):
    """Within 1 % on a held-out text of 50,000 tokens; no model is below it by more than that text's own luck."""
    whole = config.load(path, ["--config.mesh.data=1", "--config.total_steps=300"])
    program = Program(whole)
    state = program.init()
    for step in range(0, whole.total_steps, whole.steps_per_call):
        state, _ = program.step(state, step)
    (evaluate,) = program.evaluators.values()
    scalars = evaluate(state).scalars
    entropy = program.dataset.info.entropy
    assert scalars["excess"] == pytest.approx(scalars["loss"] - entropy)
    assert abs(scalars["excess"]) < 0.01 * entropy
    shares = np.bincount(program.dataset.tokens["test"], minlength=8) / 50_000
    assert scalars["loss"] < 0.95 * -(shares * np.log(shares)).sum()  # it is far from what single tokens tell


def least_squares(series, k):
    """a_1 ... a_k, the constant and the residual's scale of all values behind the first k: [N, D] -> [k + 2]."""
    rows = np.concatenate([series[:, t - k : t][:, ::-1] for t in range(k, series.shape[1])]).astype(np.float64)
    targets = np.concatenate([series[:, t] for t in range(k, series.shape[1])]).astype(np.float64)
    design = np.column_stack([rows, np.ones(len(rows))])
    found = np.linalg.lstsq(design, targets, rcond=None)[0]
    return np.append(found, np.sqrt(np.mean((targets - design @ found) ** 2))), np.linalg.inv(design.T @ design)


@pytest.fixture(scope="module")
def fitted():
    """The config as it is, trained to its end."""
    program = Program(config.load("experiments/linear_ar/ar.py", ["--config.mesh.data=1"]))
    state = program.init()
    for step in range(0, program.experiment.total_steps, program.experiment.steps_per_call):
        state, _ = program.step(state, step)
    return program, state


def test_ar_recovers_its_coefficients(fitted):
    program, state = fitted
    params = jax.device_get(state.nets["net"].params)
    found = [*params["coefficients"], params["constant"], np.exp(params["log_scale"])]
    data = program.experiment.data
    expected, covariance = least_squares(program.dataset.arrays["train"]["vector"], 3)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    error = data.sigma * np.sqrt(np.diag(covariance))  # standard errors of least squares
    assert (np.abs(found[:4] - np.array([*data.coefficients, data.constant])) < 4 * error).all()


def test_ar_reaches_the_entropy_of_the_process(fitted):
    program, state = fitted
    scalars = program.evaluators["mean"](state).scalars
    entropy = 0.5 * math.log(2 * math.pi * math.e * program.experiment.data.sigma**2)
    assert program.dataset.info.entropy == pytest.approx(entropy)
    values = program.dataset.sizes["test"] * (64 - 3)
    assert scalars["loss"] == pytest.approx(entropy, abs=4 * math.sqrt(0.5 / values))  # var of (1 - z^2) / 2 is 1/2


def test_ar_log_prob_is_the_conditional_density(fitted):
    program, state = fitted
    batch = next(iter(program.batches("test")))
    found = jax.jit(program.model.log_prob, static_argnums=3)(state, batch, jax.random.key(0), 1)
    params, series = jax.device_get(state.nets["net"].params), np.asarray(batch["vector"], np.float64)
    a, sigma, expected = params["coefficients"], np.exp(params["log_scale"]), 0
    for t in range(3, 64):
        mean = params["constant"] + sum(a[i] * series[:, t - 1 - i] for i in range(3))
        expected = expected - 0.5 * ((series[:, t] - mean) / sigma) ** 2 - np.log(sigma * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_ar_decodes_as_it_reads(fitted):
    program, state = fitted
    model, series = program.model, next(iter(program.batches("test")))["vector"]
    whole = model._outputs(state.nets["net"].averaged, series)  # of the values from the fourth on
    cache = model.prefill(state, series[:, :2], 64, {})
    decode = jax.jit(model.decode_token)
    for t in range(2, 8):
        outputs, cache = decode(state, cache, series[:, t])
        np.testing.assert_allclose(outputs, whole[:, t - 2], rtol=1e-4, atol=1e-5)


def test_ar_samples_have_the_moments_of_the_process(fitted):
    program, state = fitted
    draw = jax.jit(lambda rng, options: program.model.sample(state, rng, 2_000, options), static_argnums=1)
    made = np.asarray(draw(jax.random.key(0), linear_ar.Sampling()))
    real = program.dataset.arrays["train"]["vector"]
    assert made.shape == (2_000, 64) and made.dtype == np.float32
    for moment in (np.mean, np.std):
        assert moment(made) == pytest.approx(moment(real), rel=0.02)
    # the likeliest series is the fixed point
    params = jax.device_get(state.nets["net"].params)
    mode = draw(jax.random.key(0), linear_ar.Sampling(temperature=0.0))
    np.testing.assert_allclose(mode, params["constant"] / (1 - params["coefficients"].sum()), rtol=1e-3)


@pytest.mark.parametrize("burn_in", [0, 3, 100])
def test_ar_samples_leave_out_the_burn_in(burn_in):
    """Without noise a series is the recursion from zeros on, whose first `burn_in` values are left out."""
    a, constant, size = np.array([0.7, 0.25]), 0.1, 8

    def drawn(options, **fields):
        model = linear_ar.from_config(linear_ar.Config(order=2, **fields), {"net": optim.build(optim.Config(), 1)})
        state = model.init(jax.random.key(0), {})
        params = {"coefficients": jnp.asarray(a), "constant": jnp.float32(constant), "log_scale": jnp.float32(-1)}
        state = state.replace(nets={"net": state.nets["net"].replace(params=params)})
        return np.asarray(jax.jit(lambda: model.sample(state, jax.random.key(1), 3, options))())

    want = [0.0, 0.0]
    for _ in range(burn_in + size):
        want.append(constant + a[0] * want[-1] + a[1] * want[-2])
    found = drawn(linear_ar.Sampling(temperature=0.0), data_dim=size, burn_in=burn_in)
    np.testing.assert_allclose(found, np.tile(want[-size:], (3, 1)), rtol=1e-4)
    # with noise: the end of the longer series of the same key
    found = drawn(linear_ar.Sampling(), data_dim=size, burn_in=burn_in)
    np.testing.assert_allclose(
        found, drawn(linear_ar.Sampling(), data_dim=burn_in + size, burn_in=0)[:, burn_in:], rtol=1e-5
    )
    assert found.std() > 0.1


def test_ar_fields_that_do_not_fit_are_refused():
    assert ar.radius(np.array([0.5])) == pytest.approx(0.5)
    assert ar.radius(np.array([0.0, 0.81])) == pytest.approx(0.9)
    with pytest.raises(ConfigError, match=r"^config\.data\.coefficients: expected those of a stable process"):
        smoke("experiments/linear_ar/ar.py", "data.coefficients=(1.1,)")
    with pytest.raises(ConfigError, match=r"^config\.model\.order: expected less than data_dim = 64, got 64"):
        smoke("experiments/linear_ar/ar.py", "model.order=64")
