"""The recurrent layers against Flax's cells and against autodiff; dropout; where the gradient stops."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core.gradients import Optimizer
from gen_jax.errors import ConfigError
from gen_jax.models import lstm
from gen_jax.nets.recurrent import GRU, GRUCell, LSTMCell, recurrent_scan
from gen_jax.settings import validate

ROOT = jax.random.key(0)
V, B, T, H = 11, 4, 6, 8


def model(**fields):
    cfg = lstm.Config(vocab=V, **{"embed": 5, "width": H, "layers": 2} | fields)
    return lstm.from_config(cfg, {"net": Optimizer(optax.sgd(1.0))})


def batch_of(length=T, reset=False):
    tokens = np.random.default_rng(0).integers(0, V, (B, length + 1)).astype(np.int32)
    rows = jnp.arange(B)
    return {"tokens": jnp.asarray(tokens), "index": rows, "valid": rows >= 0, "reset": jnp.full(B, reset)}


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gru_equals_flax_cell_and_its_gradient():
    x, carry = jax.random.normal(ROOT, (B, T, 5)), (jax.random.normal(ROOT, (B, H)),)
    layer, cell = GRU(H), nn.GRUCell(H)
    params = layer.init(ROOT, x, carry)["params"]
    # Flax has no bias beside those of r and z: ours starts at 0 there, and is added to the input's
    bias = jnp.concatenate([jnp.zeros(2 * H), jax.random.normal(ROOT, (H,))])
    params = params | {"recurrent_bias": bias}

    def reference(params, x, carry):
        cut = {name: slice(H * i, H * i + H) for i, name in enumerate("rzn")}
        kernel, inner = params["input"]["kernel"], params["input"]["bias"]
        flax_params = {f"i{k}": {"kernel": kernel[:, s], "bias": inner[s]} for k, s in cut.items()}
        flax_params |= {f"h{k}": {"kernel": params["recurrent"][:, s]} for k, s in cut.items()}
        flax_params["hn"]["bias"] = params["recurrent_bias"][cut["n"]]
        h, outputs = carry[0], []
        for t in range(T):
            h, y = cell.apply({"params": flax_params}, h, x[:, t])
            outputs.append(y)
        return (h,), jnp.stack(outputs, axis=1)

    def graded(fn):
        def loss(params, x, carry):
            (h,), y = fn(params, x, carry)
            return jnp.sin(y).sum() + jnp.cos(h).sum(), (h, y)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, x, carry)

    found, expected = graded(lambda p, x, c: layer.apply({"params": p}, x, c)), graded(reference)
    for grads in (found[0][0], expected[0][0]):
        grads["recurrent_bias"] = grads["recurrent_bias"][2 * H :]
    assert_close(found, expected)


@pytest.mark.parametrize(("cell", "parts"), [(LSTMCell(), 2), (GRUCell(), 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_written_gradient_equals_autodiff(cell, parts, masked):
    keys = jax.random.split(ROOT, 6)
    width = H * (4 if parts == 2 else 3)
    inputs, kernel = jax.random.normal(keys[0], (T, B, width)), jax.random.normal(keys[1], (H, width)) / 2
    bias = jax.random.normal(keys[2], (width,))
    keep = 2.0 * jax.random.bernoulli(keys[3], 0.5, (B, H)) if masked else None
    carry = tuple(jax.random.normal(key, (B, H)) for key in keys[4 : 4 + parts])

    def plain(inputs, kernel, bias, carry):
        def step(carry, x):
            output = carry[-1] if keep is None else carry[-1] * keep
            carry, _ = cell.step(carry, cell.gates(x, output @ kernel + bias))
            return carry, carry[-1]

        return jax.lax.scan(step, carry, inputs)

    def ours(inputs, kernel, bias, carry):
        return recurrent_scan(cell, inputs, kernel, bias, keep, carry)

    def graded(fn):
        def loss(*args):
            last, outputs = fn(*args)
            return jnp.sin(outputs).sum() + sum(jnp.cos(part).sum() for part in last)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))(inputs, kernel, bias, carry)

    assert_close(graded(ours), graded(plain))


@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_the_gradient_stops_at_the_border_of_a_window(cell):
    """An update on the second window moves by its gradient with the carry held fixed, not by that through the first."""
    chosen, whole = model(cell=cell), batch_of(2 * T)
    first, second = (whole | {"tokens": whole["tokens"][:, cut]} for cut in (slice(T + 1), slice(T, None)))
    state = jax.jit(chosen.init)(ROOT, first)

    def carry_of(params):
        return chosen.network.apply({"params": params}, first["tokens"][:, :-1], chosen._zeros(B))[1]

    def loss(params, carry):
        return chosen.terms({"params": params}, second | {"carry": carry}, ROOT, step=jnp.int32(0), train=False).means[
            "loss"
        ]

    params = state.nets["net"].params
    carry = jax.jit(carry_of)(params)
    new, _ = jax.jit(chosen.train_step)(state.replace(carry=carry), second, ROOT)
    moved = jax.tree.map(lambda a, b: a - b, params, new.nets["net"].params)  # one step of SGD, rate 1
    fixed = jax.jit(jax.grad(lambda p, c: loss(p, c).total.sum() / (B * T)))(params, carry)
    through = jax.jit(jax.grad(lambda p: loss(p, carry_of(p)).total.sum() / (B * T)))(params)
    assert_close(moved, fixed)
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), moved, through)
    assert max(jax.tree.leaves(gaps)) > 1e-3


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_variational_mask_lasts_a_window_and_an_ordinary_one_a_token(cell):
    """The outputs of the last layer, seen through logits that are a copy of them."""

    def run(chosen, params, seed=0, train=True):
        def apply(params, key):
            tokens = batch_of()["tokens"]
            return chosen.network.apply(
                {"params": params}, tokens, chosen._zeros(B), train=train, rngs={"dropout": key}
            )

        return jax.jit(apply)(params, jax.random.key(seed))

    def zeros(kind, **rates):
        chosen = model(cell=cell, dropout_kind=kind, layers=1, **rates)
        params = jax.jit(chosen.init)(ROOT, batch_of()).nets["net"].params
        params["logits"] = {"kernel": jnp.eye(H, V), "bias": jnp.zeros(V)}
        return np.asarray(run(chosen, params)[0][..., :H]) == 0, chosen, params

    dropped, chosen, params = zeros("variational", dropout=0.5)
    assert 0.2 < dropped.mean() < 0.8 and (dropped == dropped[:, :1]).all()
    dropped, *_ = zeros("ordinary", dropout=0.5)
    assert 0.2 < dropped.mean() < 0.8 and not (dropped == dropped[:, :1]).all()

    # the state is masked too, with its own mask: another key gives another carry, which an ordinary mask never does
    def after(chosen, seed):
        return run(chosen, params, seed)[1][0][-1]

    assert not np.array_equal(after(chosen, 0), after(chosen, 1))
    ordinary = model(cell=cell, dropout=0.5, layers=1)
    np.testing.assert_array_equal(after(ordinary, 0), after(ordinary, 1))
    assert (np.asarray(run(chosen, params, train=False)[0][..., :H]) != 0).all()


@pytest.mark.parametrize("kind", ["ordinary", "variational"])
def test_input_dropout_is_of_the_token_vectors_and_of_training_alone(kind):
    """A network without layers, whose logits are the vectors that the first layer would get."""
    rate, batch = 0.3, {"tokens": jnp.tile(batch_of(8)["tokens"], (128, 1))}
    chosen = model(embed=H, input_dropout=rate, dropout=0.6, dropout_kind=kind)
    chosen = dataclasses.replace(chosen, network=chosen.network.clone(layers=()))
    inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    table = jax.random.normal(ROOT, (V, H))
    params = {"Embed_0": {"embedding": table}, "logits": {"kernel": jnp.eye(H, V), "bias": jnp.zeros(V)}}

    def seen(train):
        logits, _ = chosen.network.apply({"params": params}, inputs, (), train=train, rngs={"dropout": ROOT})
        means = chosen.terms({"params": params}, batch, ROOT, step=jnp.int32(0), train=train).means["loss"]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
        np.testing.assert_allclose(means.total, -picked.sum(axis=(1, 2)), rtol=1e-4)
        return np.asarray(logits[..., :H])

    vectors = np.asarray(table[inputs])
    np.testing.assert_array_equal(seen(train=False), vectors)
    dropped = seen(train=True) == 0
    np.testing.assert_allclose(seen(train=True), np.where(dropped, 0, vectors / (1 - rate)), rtol=1e-6)
    assert dropped.mean() == pytest.approx(rate, abs=0.03)  # 4 deviations of 4,096 entries
    # two entries are dropped together where they share a mask: along time (axis 1) if it is variational
    together = [(dropped & np.roll(dropped, 1, axis)).mean() for axis in range(3)]
    assert together == pytest.approx([rate**2, rate if kind == "variational" else rate**2, rate**2], abs=0.03)


def test_tied_vectors_are_the_weights_of_the_logits():
    tied = model(tied=True, embed=H)
    state = jax.jit(tied.init)(ROOT, batch_of())
    params = state.nets["net"].params
    assert "logits" not in params and params["bias"].shape == (V,)
    free = model(embed=H)
    copied = {k: v for k, v in params.items() if k != "bias"}
    copied["logits"] = {"kernel": params["Embed_0"]["embedding"].T, "bias": params["bias"]}
    tokens = batch_of()["tokens"]
    logits = [m.network.apply({"params": p}, tokens, m._zeros(B))[0] for m, p in ((tied, params), (free, copied))]
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(tied=True, embed=4, width=8), r"config\.model\.embed: expected 8, the width"),
        (dict(vocab=4, start=4), r"config\.model\.start: expected a token below 4"),
        (dict(dropout=1.0), r"config\.model\.dropout: expected"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(lstm.Config, fields, "config.model")


@pytest.mark.parametrize("fields", [dict(cell="gru"), dict(cell="gru", tied=True, embed=H, dropout_kind="variational")])
def test_the_gru_learns_a_cycle_and_decodes_as_it_reads(fields):
    chosen = lstm.from_config(
        lstm.Config(vocab=V, **{"embed": 5, "width": H, "layers": 2} | fields), {"net": Optimizer(optax.adam(0.05))}
    )
    batch = batch_of(reset=True) | {"tokens": (jnp.arange(T + 1)[None] + jnp.arange(B)[:, None]) % V}
    start = jax.jit(chosen.init)(ROOT, batch)
    state, means = jax.jit(lambda s: jax.lax.scan(lambda s, _: chosen.train_step(s, batch, ROOT), s, length=200))(start)
    assert float(means["loss"].total[-1] / means["loss"].weight[-1]) < 0.1
    whole = jax.jit(chosen.logits)(state, batch)
    cache = jax.jit(chosen.prefill, static_argnums=2)(state, batch["tokens"][:, :3], T, {})
    decode = jax.jit(chosen.decode_token)
    for t in range(3, T):
        logits, cache = decode(state, cache, batch["tokens"][:, t])
        np.testing.assert_allclose(logits, whole[:, t], rtol=1e-4, atol=1e-4)
