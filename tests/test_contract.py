"""What every model promises, whatever its family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import MEMBERS, MODELS, assert_same, smoke, some_slow

from gen_jax.core.sampling import Prompted
from gen_jax.core.state import Mean, State
from gen_jax.models.base import Autoregressive, Model, Samples
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.training.program import Program


@pytest.fixture(scope="module", params=some_slow({*MODELS, *MEMBERS}, set(MODELS)))
def program(request):
    assert request.param in MEMBERS, "a model needs a config that the tests run"
    return Program(smoke(MEMBERS[request.param], "steps_per_call=1"))


@pytest.fixture(scope="module")
def state(program):
    return program.init()


def run(program, state, steps, first=0):
    """`state` after so many steps; it is not donated."""
    state = jax.tree.map(jnp.copy, state)
    for step in range(first, first + steps):
        state, metrics = program.step(state, step)
    return state, metrics


def test_it_keeps_the_protocol(program, state):
    assert isinstance(program.model, Model)
    assert isinstance(state, State)
    hash(program.model)  # frozen: arrays and mutable fields would not hash
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), program.shapes)


def test_a_step_counts_one_and_returns_weighted_means(program, state):
    new, metrics = run(program, state, 3)
    assert int(new.step) == 3
    assert metrics
    for name, mean in metrics.items():
        assert isinstance(mean, Mean), name
        assert mean.total.shape == mean.weight.shape == (1,), name
        assert np.isfinite(mean.total).all() and (np.asarray(mean.weight) > 0).all(), name
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state.nets, new.nets)), strict=True)]
    assert any(moved)


def test_the_same_step_twice_gives_the_same_bits(program, state):
    assert_same(run(program, state, 2), run(program, state, 2))


def test_evaluation_weighs_rows_and_not_padding(program, state):
    batch = next(iter(program.batches("test")))
    keep = np.arange(len(batch["valid"])) % 3 > 0
    batch |= {"valid": batch["valid"] & keep}
    means = jax.jit(program.model.eval_step)(state, batch, program.eval_key)
    for name, mean in means.items():
        assert mean.total.shape == mean.weight.shape == batch["valid"].shape, name
        weight, valid = np.asarray(mean.weight), np.asarray(batch["valid"])
        assert (weight[~valid] == 0).all() and (weight[valid] > 0).all(), name
        assert (np.asarray(mean.total)[~valid] == 0).all(), name


def test_an_example_is_evaluated_alike_in_any_company(program, state):
    batch = next(iter(program.batches("test")))
    shifted = jax.tree.map(lambda x: jnp.roll(x, 3, axis=0), batch)
    step = jax.jit(program.model.eval_step)
    here, there = step(state, batch, program.eval_key), step(state, shifted, program.eval_key)
    for name, mean in here.items():
        np.testing.assert_allclose(mean.total, np.roll(there[name].total, -3), rtol=2e-4, atol=2e-4, err_msg=name)


def test_samples_are_what_the_data_are(program, state):
    if not isinstance(program.model, Samples):
        pytest.skip(f"{program.experiment.model_name} has no distribution to sample from")
    kind = program.dataset.info.kind
    asked = {"length": 7} if isinstance(program.experiment.sampling, Prompted) else {}
    options = program.prepared(program.sampling(asked))
    draw = jax.jit(lambda rng: program.model.sample(state, rng, 5, options))
    samples, again, other = (draw(jax.random.key(seed)) for seed in (0, 0, 1))
    assert_same(samples, again)
    if kind in ("tokens", "pairs"):
        (samples, lengths), other = samples, other[0]
        assert lengths.shape == (5,) and lengths.dtype == np.int32
    assert not np.array_equal(samples, other)
    if kind in ("tokens", "pairs"):
        assert samples.shape == (5, 7) and samples.dtype == np.int32
    elif kind == "audio":
        assert samples.shape == (5, 7) and samples.dtype == np.int16
    else:
        assert samples.shape == (5, *program.dataset.info.shape)
        assert samples.dtype == (np.uint8 if kind == "image" else np.float32)


def test_logits_with_a_cache_equal_those_without(program, state):
    model = program.model
    if not isinstance(model, Autoregressive):
        pytest.skip(f"{program.experiment.model_name} does not go token by token")
    batch = next(iter(program.batches("test")))
    inputs = (batch["tokens"] if "tokens" in batch else model.tokens(batch))[:, :-1]
    whole = np.asarray(jax.jit(model.logits)(state, batch))
    prefill, decode = jax.jit(model.prefill, static_argnums=2), jax.jit(model.decode_token)
    for prompt in (0, 3):
        cache = prefill(state, inputs[:, :prompt], inputs.shape[1], batch)
        for t in range(prompt, inputs.shape[1]):
            logits, cache = decode(state, cache, inputs[:, t])
            np.testing.assert_allclose(logits, whole[:, t], rtol=1e-4, atol=1e-4)


def test_saved_and_restored_it_resumes_bit_for_bit(program, state, tmp_path):
    half, _ = run(program, state, 2)
    with Checkpoints(tmp_path / "checkpoints", keep=1, hash_limit_mb=100) as checkpoints:
        checkpoints.save(2, half, {})
        checkpoints.wait()
        _, restored, _ = checkpoints.restore(program.abstract)
    assert_same(half, restored)
    assert_same(run(program, state, 4)[0], run(program, restored, 2, first=2)[0])
