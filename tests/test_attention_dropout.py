"""Dropout of attention weights: every layer of every Transformer has it in training, and only there."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core.gradients import Optimizer
from gen_jax.models import encoder_decoder, pixel_transformer, transformer
from gen_jax.nets import transformer as nets

ROOT, RATE, B, T = jax.random.key(0), 0.25, 4, 16
TXS = {"net": Optimizer(optax.sgd(0.1))}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 9, (B, T + 1)), jnp.int32)
ONES = jnp.ones((B, T + 1), jnp.int32)
TEXT = dict(vocab=11, context=T, layers=2, heads=2, width=16)
PAIRS = dict(vocab=11, end=10, encoder_layers=1, decoder_layers=1, heads=2, width=16, smoothing=0.0)
BATCHES = {
    "text": {"tokens": TOKENS},
    "pixels": {"image": TOKENS[:, :T].reshape(B, 4, 4, 1).astype(jnp.uint8), "index": jnp.arange(B)},
    "pairs": {
        "source": TOKENS[:, 1:],
        "source_segment": ONES[:, 1:],
        "tokens": TOKENS,
        "segment": ONES[:, 1:],
        "mask": jnp.ones((B, T)),
    },
}


def build(family, dropout, **more):
    """The model, its variables and a batch."""
    if family == "text":
        model = transformer.from_config(transformer.Config(**TEXT, dropout=dropout, **more), TXS)
    elif family == "pixels":
        cfg = pixel_transformer.Config(image=(4, 4, 1), layers=2, heads=2, width=16, dropout=dropout)
        model = pixel_transformer.from_config(cfg, TXS)
    else:
        model = encoder_decoder.from_config(encoder_decoder.Config(**PAIRS, dropout=dropout), TXS)
    return model, jax.jit(model.init_variables)(ROOT, BATCHES[family]), BATCHES[family]


def dropped(model, variables, batch, key):
    """What every `nn.Dropout` of attention weights gave in training, [L, B, N, T, S]."""
    found = []

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, nn.Dropout) and context.method_name == "__call__" and out.ndim == 4:
            found.append(context.module.path)
            context.module.sow("intermediates", "dropped", out)
        return out

    @jax.jit
    def run(variables, key):
        kwargs = dict(train=True, rngs={"dropout": key}, mutable=["intermediates"])
        if "source" in batch:
            return model._logits(variables, batch, **kwargs)[1]
        tokens = batch["tokens"] if "tokens" in batch else model.tokens(batch)
        return model.network.apply(variables, tokens[:, :-1], **kwargs)[1]

    with nn.intercept_methods(record):
        state = run(variables, key)
    assert found
    leaves = jax.tree_util.tree_leaves_with_path(state["intermediates"])
    every = [leaf for path, leaf in leaves if any(getattr(key, "key", "") == "dropped" for key in path)]
    return np.concatenate([leaf if leaf.ndim == 5 else leaf[None] for leaf in map(np.asarray, every)])


@pytest.mark.parametrize(
    ("family", "more", "layers"),
    [("text", {}, 2), ("text", {"scan_layers": True}, 2), ("pixels", {}, 2), ("pairs", {}, 1 + 2)],
)
def test_every_layer_drops_its_weights_in_training(family, more, layers):
    model, variables, batch = build(family, RATE, **more)
    weights = dropped(model, variables, batch, jax.random.key(1))
    assert len(weights) == layers
    seen = np.ones((T, T), bool) if family == "pairs" else np.tri(T, dtype=bool)
    zeros = (weights == 0)[..., seen]
    if family != "pairs":
        np.testing.assert_allclose(zeros.mean(axis=(1, 2, 3)), RATE, atol=0.05)  # 1,088 weights a layer
    masks = {mask.tobytes() for mask in weights == 0}
    assert len(masks) == layers  # none is that of another layer


@pytest.mark.parametrize(("family", "more"), [("text", {"scan_layers": True}), ("pairs", {})])
def test_evaluation_is_that_without_dropout(family, more):
    with_it, variables, batch = build(family, RATE, **more)
    without, _, _ = build(family, 0.0, **more)
    found, want = (
        jax.jit(functools.partial(model.terms, train=False))(variables, batch, ROOT, step=0).means["loss"].total
        for model in (with_it, without)
    )
    np.testing.assert_array_equal(found, want)


def attention(**more):
    module = nets.Attention(2, 2, dropout=RATE, kernel_init=nn.initializers.normal(0.5), **more)
    x = jax.random.normal(jax.random.key(2), (1, 6, 8))
    positions = jnp.arange(6)[None]
    return module, module.init(ROOT, x, positions), x, positions


def test_the_mean_over_masks_is_attention_without_dropout():
    """The output is linear in the weights, so nothing else is dropped and what stays is scaled by 1 / (1 - rate)."""
    module, variables, x, positions = attention()

    @jax.jit
    @jax.vmap
    def draws(key):
        return module.apply(variables, x, positions, train=True, rngs={"dropout": key})[0]

    found = draws(jax.random.split(jax.random.key(3), 1000))
    want, _ = module.apply(variables, x, positions)
    error = np.abs(found.mean(0) - want) / (found.std(0) / 1000**0.5 + 1e-6)
    assert error.max() < 4.5
    assert found.std(0).min() > 1e-3


def test_a_fixed_mask_equals_numpy():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 3, 5, 4)).astype(np.float32)  # [B, N, T, H]
    mask = rng.random((2, 3, 5, 5)) < 0.5
    scores = np.where(np.tri(5, dtype=bool), q @ k.swapaxes(-1, -2) / 2, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    want = (weights * mask / 0.5) @ v
    swapped = (jnp.asarray(x.swapaxes(1, 2)) for x in (q, k, v))
    found = nets.attend(*swapped, None, causal=True, drop=lambda w: w * mask / 0.5)
    np.testing.assert_allclose(found.swapaxes(1, 2), want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_remat_draws_the_same_masks_again(scan):
    def gradient(remat):
        model, variables, batch = build("text", RATE, remat=remat, scan_layers=scan)

        def loss(variables):
            return model.terms(variables, batch, ROOT, step=jnp.int32(0), train=True).means["loss"].total.sum()

        return jax.jit(jax.value_and_grad(loss))(variables)

    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), gradient("none"), gradient("full"))
