"""What every model that goes token by token promises beside the contract: causality, log V, greedy draws, the carry."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import SMALLEST, smoke

from gen_jax.core import ops
from gen_jax.core.generate import generate
from gen_jax.core.sampling import Text
from gen_jax.models.base import Autoregressive, Carries
from gen_jax.training.program import Program

VARIANTS = {name: (path, ()) for name, path in SMALLEST.items()} | {
    "gru": (SMALLEST["lstm"], ("model.cell=gru", "model.layers=2")),
    "lstm, markov": ("experiments/lstm/markov.py", ()),
    "transformer, markov": ("experiments/lstm/markov.py:model=transformer", ()),
}


@pytest.fixture(scope="module", params=VARIANTS)
def trained(request):
    """A program, its state after four steps, and a batch of the test split whose every position counts."""
    path, flags = VARIANTS[request.param]
    program = Program(smoke(path, "steps_per_call=2", *flags))
    if not isinstance(program.model, Autoregressive):
        pytest.skip(f"{program.experiment.model_name} does not go token by token")
    state = program.init()
    for step in (0, 2):
        state, _ = program.step(state, step)
    batch = next(iter(program.batches("test")))
    if "segment" in batch:
        batch |= {"segment": jnp.ones_like(batch["segment"])}
    return program.model, state, batch


def tokens_of(model, batch):
    """What the model reads, [B, T + 1]."""
    return batch["tokens"] if "tokens" in batch else model.tokens(batch)


def with_tokens(batch, tokens):
    """The batch whose model reads `tokens` [B, T + 1]."""
    if "tokens" in batch:
        return batch | {"tokens": tokens}
    values = tokens[:, 1:]  # behind the first, which stands for the start
    if "audio" in batch:
        return batch | {"audio": ops.mu_law_decode(values)}
    return batch | {"image": values.reshape(batch["image"].shape).astype(jnp.uint8)}


def test_a_token_changes_what_comes_behind_it_and_nothing_before(trained):
    model, state, batch = trained
    assert isinstance(model, Autoregressive)
    run, tokens, t = jax.jit(model.logits), tokens_of(model, batch), 4
    before = np.asarray(run(state, with_tokens(batch, tokens)))
    vocab = before.shape[-1]
    after = np.asarray(run(state, with_tokens(batch, tokens.at[:, t].set((tokens[:, t] + 1) % vocab))))
    np.testing.assert_allclose(after[:, :t], before[:, :t], rtol=0, atol=1e-6)
    assert np.abs(after[:, t] - before[:, t]).max() > 1e-5


def test_uniform_logits_cost_log_vocab(trained):
    model, state, batch = trained
    vocab = jax.eval_shape(model.logits, state, batch).shape[-1]
    net = state.nets["net"]
    uniform = state.replace(nets={"net": jax.tree.map(jnp.zeros_like, net)})
    loss = jax.jit(model.eval_step)(uniform, batch, jax.random.key(0))["loss"]
    np.testing.assert_allclose(loss.total.sum() / loss.weight.sum(), math.log(vocab), rtol=1e-5)


def test_greedy_samples_are_the_likeliest_of_the_uncached_logits(trained):
    model, state, batch = trained
    prompt, length = 3, 5
    batch = jax.tree.map(lambda x: x[:4], batch)
    tokens = tokens_of(model, batch)
    options = Text(temperature=0.0, length=length)

    @jax.jit
    def sample(state, tokens):
        return generate(model, state, jax.random.key(0), tokens[:, :prompt], [prompt] * 4, options, batch)

    drawn, lengths = sample(state, tokens)
    assert (lengths == length).all()
    written = tokens.at[:, prompt : prompt + length].set(drawn)
    logits = np.asarray(jax.jit(model.logits)(state, with_tokens(batch, written)))[:, prompt - 1 : prompt - 1 + length]
    chosen = np.take_along_axis(logits, np.asarray(drawn)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, logits.max(axis=-1), atol=1e-4)


def test_a_carry_equals_one_long_pass(trained):
    model, state, batch = trained
    if not isinstance(model, Carries):
        pytest.skip("keeps no carry")
    evaluate = jax.jit(model.eval_carried)
    carry = model.init_carry(batch)
    half = batch["mask"].shape[1] // 2
    whole, last = evaluate(state, batch, carry, jax.random.key(0))
    total = 0
    for cut in (slice(0, half), slice(half, None)):
        targets = slice(cut.start, None if cut.stop is None else cut.stop + 1)
        part = batch | {
            "tokens": batch["tokens"][:, targets],
            "mask": batch["mask"][:, cut],
            "reset": jnp.zeros_like(batch["reset"]),
        }
        means, carry = evaluate(state, part, carry, jax.random.key(0))
        total += means["loss"].total
    np.testing.assert_allclose(total, whole["loss"].total, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
