"""The recurrent language model: the carry, causality, weights of tokens, the layer against Flax's own cell."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from members import smoke

from gen_jax.core.gradients import Gradients, Optimizer
from gen_jax.errors import ConfigError
from gen_jax.models import lstm
from gen_jax.models.base import Carries
from gen_jax.nets.recurrent import LSTM
from gen_jax.training.program import Program

ROOT = jax.random.key(0)
V, B, T = 11, 4, 6


@functools.cache
def build(micro_batches=1, layers=2):
    optimizer = Optimizer(optax.sgd(0.1), gradients=Gradients(micro_batches))
    return lstm.from_config(lstm.Config(vocab=V, embed=5, width=8, layers=layers), {"net": optimizer})


def batch_of(length=T, reset=False, seed=0):
    tokens = np.random.default_rng(seed).integers(0, V, (B, length + 1)).astype(np.int32)
    ones = jnp.ones(B, bool)
    return {"tokens": jnp.asarray(tokens), "index": jnp.arange(B), "valid": ones, "reset": ones if reset else ~ones}


@functools.cache
def state():
    return jax.jit(build().init)(ROOT, batch_of())


def windows(batch):
    """The two halves of a batch of twice the length."""
    n = (batch["tokens"].shape[1] - 1) // 2
    return batch | {"tokens": batch["tokens"][:, : n + 1]}, batch | {"tokens": batch["tokens"][:, n:]}


def test_layer_equals_flax_cell_and_its_gradient():
    x = jax.random.normal(ROOT, (B, T, 5))
    carry = tuple(jax.random.normal(key, (B, 8)) for key in jax.random.split(ROOT))
    layer, cell = LSTM(8), nn.OptimizedLSTMCell(8)
    params = jax.jit(layer.init)(ROOT, x, carry)["params"]

    def reference(params, x, carry):
        gate = dict(zip("ifgo", range(4), strict=True))
        cut = {name: slice(8 * i, 8 * i + 8) for name, i in gate.items()}
        flax_params = {f"i{k}": {"kernel": params["input"]["kernel"][:, s]} for k, s in cut.items()}
        flax_params |= {
            f"h{k}": {"kernel": params["recurrent"][:, s], "bias": params["input"]["bias"][s]} for k, s in cut.items()
        }
        outputs = []
        for t in range(T):
            carry, y = cell.apply({"params": flax_params}, carry, x[:, t])
            outputs.append(y)
        return carry, jnp.stack(outputs, axis=1)

    def ours(params, x, carry):
        return layer.apply({"params": params}, x, carry)

    def loss(fn):
        def value(params, x, carry):
            (c, h), y = fn(params, x, carry)
            return (jnp.sin(y).sum(), (c**2).sum() + jnp.cos(h).sum()), (c, h, y)

        def total(*args):
            parts, aux = value(*args)
            return sum(parts), aux

        return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))

    (grads, found), (expected_grads, expected) = loss(ours)(params, x, carry), loss(reference)(params, x, carry)
    for a, b in zip(jax.tree.leaves((grads, found)), jax.tree.leaves((expected_grads, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_carry_equals_one_long_pass():
    model, batch = build(), batch_of(2 * T)
    evaluate = jax.jit(model.eval_carried)
    carry = model.init_carry(batch)
    whole, last = evaluate(state(), batch, carry, ROOT)
    total = 0
    for window in windows(batch):
        means, carry = evaluate(state(), window, carry, ROOT)
        total += means["loss"].total
    np.testing.assert_allclose(total, whole["loss"].total, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_reset_rows_start_cold_and_others_go_on():
    model, batch = build(), batch_of()
    evaluate = jax.jit(model.eval_carried)
    warm = jax.tree.map(lambda x: jnp.ones_like(x), model.init_carry(batch))
    reset = jnp.arange(B) % 2 == 0
    mixed, _ = evaluate(state(), batch | {"reset": reset}, warm, ROOT)
    kept, _ = evaluate(state(), batch, warm, ROOT)
    cold = jax.jit(model.eval_step)(state(), batch, ROOT)
    expected = np.where(reset, cold["loss"].total, kept["loss"].total)
    np.testing.assert_allclose(mixed["loss"].total, expected, rtol=1e-6)
    assert (np.abs(cold["loss"].total - kept["loss"].total) > 1e-3).all()


def test_training_carries_on_between_steps():
    model, batch = build(), batch_of(2 * T)
    first, second = windows(batch)
    step = jax.jit(model.train_step)
    after, _ = step(state(), first, ROOT)
    _, expected = jax.jit(model.eval_carried)(state(), first, model.init_carry(first), ROOT)
    for a, b in zip(jax.tree.leaves(after.carry), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    _, warm = step(after, second, ROOT)
    _, cold = step(after, second | {"reset": jnp.ones(B, bool)}, ROOT)
    assert abs(float(warm["loss"].total - cold["loss"].total)) > 1e-4


def test_windows_without_reset_start_cold_and_keep_no_carry():
    model, batch = build(), batch_of()
    batch = {k: v for k, v in batch.items() if k != "reset"}
    assert model.init_carry(batch) is None and isinstance(model, Carries)
    after, means = jax.jit(model.train_step)(state().replace(carry=None), batch, ROOT)
    assert after.carry is None
    cold = jax.jit(model.eval_step)(state(), batch, ROOT)
    np.testing.assert_allclose(means["loss"].total, cold["loss"].total.sum(), rtol=1e-5)


@pytest.mark.parametrize("flags", [("data.order=windows", "parallel=pmap"), ("data.order=permuted",)])
def test_trained_on_windows_it_keeps_no_carry_and_is_evaluated_carried(flags):
    program = Program(smoke("experiments/lstm/pydoc.py", *flags, devices=2))
    state = program.init()
    assert state.carry is None
    state = program.leave(program.step(program.enter(state), 0)[0])
    assert state.carry is None and int(state.step) == 2
    run = program.evaluators
    carried, cold = (run[name](state).scalars["loss"] for name in ("carried", "cold"))
    # by hand: one text a row, from zeros
    batches = list(program.batches("test"))
    tokens = np.concatenate([batch["tokens"][:, :-1] for batch in batches], axis=1)
    targets = np.concatenate([batch["tokens"][:, 1:] for batch in batches], axis=1)
    mask = np.concatenate([batch["mask"] * batch["valid"][:, None] for batch in batches], axis=1)
    logits, _ = jax.jit(program.model.network.apply)(
        state.nets["net"].averaged, tokens, program.model._zeros(len(tokens))
    )
    picked = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(carried, -(picked * mask).sum() / mask.sum(), rtol=1e-5)
    assert abs(carried - cold) > 1e-6


def test_streams_reset_and_windows_do_not():
    for order, resets in (("streams", True), ("windows", False), ("permuted", False)):
        feed = Program(smoke("experiments/lstm/pydoc.py", f"data.order={order}")).feeder.feed
        assert ("reset" in feed.assemble(feed.resident, feed.rows(0))) == resets


def test_teacher_forcing():
    """The loss at t is the true next token's after the true tokens before it, not one of what the model would write."""
    model, batch = build(), batch_of()
    evaluate = jax.jit(model.eval_step)

    def losses(tokens):  # [B, T], one position at a time
        at = [
            evaluate(state(), batch | {"tokens": tokens, "mask": jnp.zeros((B, T)).at[:, t].set(1)}, ROOT)
            for t in range(T)
        ]
        return np.stack([means["loss"].total for means in at], axis=1)

    tokens, t = batch["tokens"], 3
    before = losses(tokens)
    logits = jax.jit(model.network.apply)(state().nets["net"].variables, tokens[:, :-1], model._zeros(B))[0]
    odds = np.exp(np.asarray(logits, np.float64))
    picked = np.take_along_axis(odds, np.asarray(tokens)[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(before, -np.log(picked / odds.sum(-1)), rtol=1e-5)
    # token t is the input of the loss at t and the target of the one before
    moved = np.abs(losses(tokens.at[:, t].add(1) % V) - before).max(axis=0)
    assert (moved[: t - 1] == 0).all() and (moved[t - 1 :] > 1e-6).all()


def test_micro_batches_keep_gradient_and_carry():
    batch = batch_of()
    carry = jax.tree.map(lambda x: x + jnp.arange(B)[:, None] / 4, build().init_carry(batch))
    whole, parts = (jax.jit(build(m).train_step)(state().replace(carry=carry), batch, ROOT)[0] for m in (1, 2))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_micro_batches_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match=r"^optim\.<net>\.micro_batches: expected a divisor of 4, .* got 3$"):
        build(3).train_step(state(), batch_of(), ROOT)


def test_causal():
    model, tokens = build(), batch_of()["tokens"][:, :-1]
    run = jax.jit(lambda tokens: model.network.apply(state().nets["net"].variables, tokens, model._zeros(B))[0])
    before, after = run(tokens), run(tokens.at[:, 3].add(1) % V)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (np.abs(before[:, 3:] - after[:, 3:]).max(axis=(0, 2)) > 1e-6).all()


def test_uniform_model_gives_log_vocab_whatever_the_mask():
    model, batch = build(), batch_of()
    flat = jax.tree.map(jnp.zeros_like, state().nets["net"].params)
    uniform = state().replace(nets={"net": state().nets["net"].replace(params=flat)})
    mask = jnp.ones((B, T)).at[0, 2:].set(0)
    valid = jnp.arange(B) != 3
    means = jax.jit(model.eval_step)(uniform, batch | {"mask": mask, "valid": valid}, ROOT)
    np.testing.assert_allclose(means["loss"].weight, [2, T, T, 0])
    np.testing.assert_allclose(means["loss"].total.sum() / means["loss"].weight.sum(), math.log(V), rtol=1e-6)


def test_sampling():
    model = build()
    trained = state()
    sample = jax.jit(lambda rng, options: model.sample(trained, rng, 3, options), static_argnums=1)
    options = lstm.Sampling(length=5, prompts=((1, 2, 3),), temperature=0.0)
    tokens, _ = sample(ROOT, options)
    assert tokens.shape == (3, 5) and tokens.dtype == jnp.int32
    # greedy: each token is the likeliest after all before it
    row = jnp.concatenate([jnp.array([1, 2, 3]), tokens[0]])[None]
    logits, _ = jax.jit(model.network.apply)(state().nets["net"].variables, row, model._zeros(1))
    np.testing.assert_array_equal(logits[0, 2:-1].argmax(-1), tokens[0])
    drawn, _ = sample(ROOT, lstm.Sampling(length=64))
    assert len(np.unique(drawn)) > 3 and int(drawn.min()) >= 0 and int(drawn.max()) < V
    assert not np.array_equal(drawn, sample(jax.random.key(1), lstm.Sampling(length=64))[0])


def test_learns_a_cycle():
    tokens = (jnp.arange(T + 1)[None] + jnp.arange(B)[:, None]) % V
    batch = batch_of(reset=True) | {"tokens": tokens}
    model = lstm.from_config(lstm.Config(vocab=V, embed=5, width=8), {"net": Optimizer(optax.adam(0.05))})
    start = jax.jit(model.init)(ROOT, batch)
    _, means = jax.jit(lambda s: jax.lax.scan(lambda s, _: model.train_step(s, batch, ROOT), s, length=150))(start)
    assert float(means["loss"].total[-1] / means["loss"].weight[-1]) < 0.1
    assert float(means["accuracy"].total[-1] / means["accuracy"].weight[-1]) == 1
