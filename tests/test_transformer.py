"""The Transformer: its parts against their equations, scan and remat, packed documents, sharding by heads."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from members import smoke

from gen_jax.core import ops
from gen_jax.core.generate import rows
from gen_jax.core.gradients import Optimizer
from gen_jax.core.state import path_name
from gen_jax.errors import ConfigError
from gen_jax.models import transformer
from gen_jax.nets import transformer as nets
from gen_jax.settings import validate
from gen_jax.training.program import Program

ROOT = jax.random.key(0)
V, B, T = 11, 3, 8
SMALL = dict(vocab=V, context=T, layers=2, heads=4, width=16)
VARIANTS = {
    "gpt2": {},
    "modern": dict(norm="rms", position="rotary", mlp="swiglu", kv_heads=2, qk_norm=True, bias=False, tied=False),
    "scanned": dict(scan_layers=True),
    "scanned_modern": dict(scan_layers=True, position="rotary", kv_heads=1, remat="dots"),
    "packed": dict(end=V - 1),
}


@functools.cache
def build(**fields):
    return transformer.from_config(transformer.Config(**(SMALL | fields)), {"net": Optimizer(optax.sgd(0.1))})


def tokens_of(seed=0, vocab=V):
    return jnp.asarray(np.random.default_rng(seed).integers(0, vocab, (B, T + 1)), jnp.int32)


def batch_of(tokens):
    return {"tokens": tokens, "index": jnp.arange(B), "valid": jnp.ones(B, bool)}


@functools.cache
def state_of(**fields):
    """Not at its first values, where residual branches hardly matter."""
    state = jax.jit(build(**fields).init)(ROOT, batch_of(tokens_of()))
    net = state.nets["net"]
    return state.replace(nets={"net": net.replace(params=moved(net.params))})


@jax.jit
def moved(params):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([x + 0.2 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_cache_changes_nothing(name):
    model, state, tokens = build(**VARIANTS[name]), state_of(**VARIANTS[name]), tokens_of()
    whole = jax.jit(model.logits)(state, batch_of(tokens))
    prefill, decode = jax.jit(model.prefill, static_argnums=2), jax.jit(model.decode_token)
    for prompt in (0, 5):
        cache = prefill(state, tokens[:, :prompt], T + 3, {})
        for t in range(prompt, T):
            logits, cache = decode(state, cache, tokens[:, t])
            np.testing.assert_allclose(logits, whole[:, t], atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_token_changes_nothing_before_it(name):
    model, state, tokens = build(**VARIANTS[name]), state_of(**VARIANTS[name]), tokens_of(vocab=V - 1)
    logits = jax.jit(model.logits)
    changed = tokens.at[:, 4].set((tokens[:, 4] + 1) % (V - 1))
    before, after = logits(state, batch_of(tokens)), logits(state, batch_of(changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before[:, 4:] - after[:, 4:]).max(axis=-1) > 1e-4).all()


@pytest.mark.slow
def test_scan_and_remat_are_only_other_ways_to_compile():
    plain, state, batch = build(), state_of(), batch_of(tokens_of())

    def loss_and_gradient(model, params):
        def loss(params):
            return model.terms({"params": params}, batch, ROOT, step=jnp.int32(0), train=True).means["loss"].total.sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    params = state.nets["net"].params
    blocks = params["blocks"]
    stacked = {"layers": jax.tree.map(lambda *x: jnp.stack(x), blocks["block_0"], blocks["block_1"])}
    expected, gradient = loss_and_gradient(plain, params)
    for remat in ("none", "dots", "full"):
        value, found = loss_and_gradient(build(remat=remat), params)
        assert float(value) == pytest.approx(float(expected), rel=1e-6)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), gradient, found)
        value, found = loss_and_gradient(build(remat=remat, scan_layers=True), params | {"blocks": stacked})
        assert float(value) == pytest.approx(float(expected), rel=1e-6)
        second = jax.tree.map(lambda x: x[1], found["blocks"]["layers"])
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), gradient["blocks"]["block_1"], second
        )


def test_packed_documents_equal_each_alone():
    """Attention stops at the border and positions start again: a document does not know what lies before it."""
    end = V - 1
    model, state = build(end=end), state_of(end=end)
    row = jnp.asarray([[end, 1, 2, 3, end, 4, 5, 6, 7]] * B)
    logits = jax.jit(model.logits)
    packed = logits(state, batch_of(row))
    alone = logits(state, batch_of(jnp.asarray([[end, 4, 5, 6, 7, 0, 0, 0, 0]] * B)))
    np.testing.assert_allclose(packed[:, 4:], alone[:, :4], atol=1e-5)
    unaware = jax.jit(build().logits)(state, batch_of(row))
    assert np.abs(unaware[:, 4:] - alone[:, :4]).max() > 1e-2


def test_attention_equals_its_equation_with_shared_keys():
    q, k, v = (
        jax.random.normal(key, (B, T, n, 6)) for key, n in zip(jax.random.split(ROOT, 3), (4, 2, 2), strict=True)
    )
    ours = nets.attend(q, k, v, None, causal=True)
    theirs = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_attention_in_forward_mode_takes_no_kernel_without_it(monkeypatch):
    """On a GPU flash attention has no `jax.jvp`."""
    q, called = jax.random.normal(ROOT, (B, T, 4, 6), jnp.bfloat16), []
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, *_, **__: called.append(q) or q)

    with ops.compiling_for("gpu"):
        with ops.forward_mode():
            nets.attend(q, q, q, None, causal=False)
        assert not called
        nets.attend(q, q, q, None, causal=False)
    assert called


def test_rotary_products_depend_on_the_distance_alone():
    q, k = jax.random.normal(ROOT, (2, 1, 1, 1, 8))

    def product(a, b):
        turned = [nets.rotary(x, jnp.asarray([[i]])) for x, i in ((q, a), (k, b))]
        return float((turned[0] * turned[1]).sum())

    assert product(5, 3) == pytest.approx(product(9, 7), abs=1e-4)
    assert product(5, 3) != pytest.approx(product(5, 2), abs=1e-2)
    assert product(0, 0) == pytest.approx(float((q * k).sum()), abs=1e-5)


def test_gelu_is_exact():
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(nets.gelu(x), nn.gelu(x, approximate=False), atol=1e-6)


def test_initial_scales():
    """What ends in the residual stream is smaller by sqrt(2 layers); a new model predicts about uniformly."""
    model = build(layers=8, width=64)
    params = jax.jit(model.init)(ROOT, batch_of(tokens_of())).nets["net"].params
    block = params["blocks"]["block_3"]
    for name, std in (("qkv", 0.02), ("out", 0.02 / 4)):
        assert float(block["attention"][name]["kernel"].std()) == pytest.approx(std, rel=0.1)
    for name, std in (("up", 0.02), ("down", 0.02 / 4)):
        assert float(block["mlp"][name]["kernel"].std()) == pytest.approx(std, rel=0.1)
    terms = jax.jit(lambda params, batch: model.terms({"params": params}, batch, ROOT, step=jnp.int32(0), train=False))
    loss = terms(params, batch_of(tokens_of())).means["loss"]
    assert float(loss.total.sum() / loss.weight.sum()) == pytest.approx(math.log(V), rel=0.05)


def test_bfloat16_computes_what_float32_does():
    tokens = batch_of(tokens_of())
    exact, rounded = (jax.jit(build(dtype=dtype).logits)(state_of(), tokens) for dtype in ("float32", "bfloat16"))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(exact, rounded, atol=0.3)
    assert np.abs(exact - rounded).max() > 0


def test_a_text_longer_than_the_context():
    options = transformer.Sampling(length=3 * T, temperature=0.0, prompts=((1, 2, 3),))
    sample = jax.jit(build().sample, static_argnums=(2, 3))
    tokens, lengths = sample(state_of(), ROOT, 2, options)
    assert tokens.shape == (2, 3 * T) and lengths.tolist() == [3 * T] * 2
    short, _ = sample(state_of(), ROOT, 2, options.model_copy(update=dict(length=T - 2)))
    np.testing.assert_array_equal(tokens[:, : T - 2], short)
    assert rows(options.prompts, 2)[0].shape == (2, 3)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(heads=3), "config.model.width: expected a multiple of heads = 3"),
        (dict(kv_heads=3), "config.model.kv_heads: expected a divisor of heads = 4"),
        (dict(heads=16, position="rotary"), "config.model.width: expected an even number a head"),
        (dict(start=V), f"config.model.start: expected a token below vocab = {V}, got {V}"),
        (dict(end=V), f"config.model.end: expected a token below vocab = {V}, got {V}"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(transformer.Config, SMALL | fields, "config.model")


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_heads_over_devices_equal_one_device(scan):
    """The rules beside the model, on 2 x 4 devices: every large kernel is cut, and losses stay."""
    path = "experiments/transformer/shakespeare_char_cpu.py"
    flags = (f"model.scan_layers={scan}", "model.heads=4", "steps_per_call=1")
    one = Program(smoke(path, *flags))
    cut = smoke(path, *flags, "mesh.model=4", devices=2)
    many = Program(cut.model_copy(update={"sharding": transformer.TENSOR_PARALLEL}))
    for leaf_path, sharding in jax.tree_util.tree_leaves_with_path(many.shardings.nets["net"].params):
        name = path_name(leaf_path)
        if name.endswith(("qkv/kernel", "up/kernel", "down/kernel", "out/kernel", "token/embedding")):
            assert "model" in str(sharding.spec), name
    states, seen = [one.init(), many.init()], ([], [])
    for step in range(5):
        for i, program in enumerate((one, many)):
            states[i], metrics = program.step(states[i], step)
            seen[i].append(float(metrics["loss"].total[0] / metrics["loss"].weight[0]))
    np.testing.assert_allclose(*seen, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "scanned", "modern"])
def test_recorded_attention_is_causal_and_adds_up_to_one(name):
    model, state = build(**VARIANTS[name]), state_of(**VARIANTS[name])
    weights = jax.jit(model.attention)(state, batch_of(tokens_of()))
    assert weights.shape == (B, 2, 4, T, T)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    assert (np.triu(weights, 1) == 0).all()
    assert np.abs(weights[:, 0] - weights[:, 1]).max() > 1e-3  # two layers, in order


def test_attention_is_drawn_with_its_tokens(figures):
    program = Program(smoke("experiments/transformer/shakespeare_char_cpu.py"))
    image = program.evaluators["attention"](program.init()).images["attention"]
    assert image.dtype == np.uint8 and image.shape[2] == 3 and image.std() > 1
    assert figures[0].get_suptitle() == "Attention to the text so far, first of validation"
    assert figures[0].axes[0].get_title() == "layer 1, head 1"


@pytest.mark.slow
def test_a_document_starts_with_its_token_when_it_is_sampled():
    model = build(end=V - 1)
    tokens, lengths = model.prompts(transformer.Sampling(prompts=((1, 2), ())), 2)
    assert tokens.tolist() == [[V - 1, 1, 2], [V - 1, 0, 0]] and lengths.tolist() == [3, 1]
    options = transformer.Sampling(prompts=((1, 2),), temperature=0.0, length=1, end=V - 1)
    drawn, _ = model.sample(state_of(end=V - 1), ROOT, B, options)
    row = jnp.asarray([[V - 1, 1, 2, 0]] * B)
    expected = model.logits(state_of(end=V - 1), batch_of(row))[:, 2].argmax(axis=-1)
    np.testing.assert_array_equal(drawn[:, 0], expected)


def test_packed_documents_need_a_model_that_knows_their_border():
    with pytest.raises(ConfigError, match=r"config\.model\.end: expected 256, as in the data, got None"):
        Program(smoke("experiments/transformer/shakespeare_char_cpu.py", "data.documents=packed", "model.vocab=257"))


@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_a_loss_in_parts_is_that_of_the_whole(name):
    """Its gradients too, and what comes after the mask counts for nothing."""
    batch = batch_of(tokens_of()) | {"mask": jnp.asarray(np.random.default_rng(1).integers(0, 2, (B, T)), jnp.float32)}
    params = state_of(**VARIANTS[name]).nets["net"].params

    def value(params, parts):
        model = build(**VARIANTS[name], loss_parts=parts)
        means = model.terms({"params": params}, batch, ROOT, step=jnp.int32(0), train=True).means
        return means["loss"].sum().total, means

    (one, whole), (four, cut) = (jax.jit(jax.grad(value, has_aux=True), static_argnums=1)(params, n) for n in (1, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, cut)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, four)


def test_a_loss_in_parts_holds_the_logits_of_one_part():
    """The compiled gradient's temporaries, of a vocabulary that is larger than all else."""
    batch = {"tokens": jnp.zeros((2, 129), jnp.int32)}

    def temporaries(parts):
        model = build(context=128, vocab=4096, loss_parts=parts)
        variables = model.network.init(ROOT, jnp.zeros((1, 1), jnp.int32))
        grad = jax.grad(lambda v: model.terms(v, batch, ROOT, step=jnp.int32(0), train=True).means["loss"].sum().total)
        return jax.jit(grad).lower(variables).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8) < temporaries(1) / 2


def test_parts_of_a_loss_divide_the_window():
    with pytest.raises(
        ConfigError, match=r"config\.model\.loss_parts: expected a divisor of 16, the tokens of a window"
    ):
        Program(smoke("experiments/transformer/shakespeare_char_cpu.py", "model.loss_parts=3")).check()
