"""WaveNet: the convolution against XLA's, the field it sees, the cached form, mu-law, and the 16-bit output."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core import losses, ops
from gen_jax.core.gradients import Optimizer
from gen_jax.core.sampling import Text
from gen_jax.models import wavenet
from gen_jax.nets.wavenet import CausalConv, WaveNet, receptive_field, taps

ROOT = jax.random.key(0)
B, T, CLASSES = 3, 24, 4


@functools.cache
def build(output="mu_law", kernel=2, silence=1.0):
    cfg = wavenet.Config(
        output=output, mixtures=3, width=6, skip=8, kernel=kernel, stacks=1, depth=3, num_classes=CLASSES, embed=5,
        silence=silence,
    )  # fmt: skip
    return wavenet.from_config(cfg, {"net": Optimizer(optax.sgd(0.1))})


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    audio = rng.integers(-20_000, 20_000, (B, T)).astype(np.int16)
    arrays = {"audio": audio, "mask": np.ones((B, T), np.float32), "label": np.arange(B, dtype=np.int32)}
    return jax.tree.map(jnp.asarray, arrays) | {"index": jnp.arange(B), "valid": jnp.ones(B, bool)}


@functools.cache
def state(output="mu_law", kernel=2):
    return jax.jit(build(output, kernel).init)(ROOT, batch_of())


@pytest.mark.parametrize(("kernel", "dilation"), [(2, 4), (3, 2), (3, 16)])
def test_causal_conv_equals_xla_and_its_gradients(kernel, dilation):
    x = jax.random.normal(ROOT, (2, 20, 3))
    conv = CausalConv(5, kernel, dilation)
    params = conv.init(ROOT, x)["params"]["dense"] | {"bias": jnp.arange(5.0)}

    def ours(params, x):
        return conv.apply({"params": {"dense": params}}, x)

    def theirs(params, x):
        weights = params["kernel"].reshape(kernel, 3, 5)
        pad, layout = [((kernel - 1) * dilation, 0)], ("NTC", "TIO", "NTC")
        y = jax.lax.conv_general_dilated(x, weights, (1,), pad, rhs_dilation=(dilation,), dimension_numbers=layout)
        return y + params["bias"]

    def grads(fn):
        return jax.grad(lambda *args: jnp.sin(fn(*args)).sum(), argnums=(0, 1))(params, x)

    np.testing.assert_allclose(ours(params, x), theirs(params, x), atol=1e-5)
    for a, b in zip(jax.tree.leaves(grads(ours)), jax.tree.leaves(grads(theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_taps_of_nothing_and_of_less_than_a_dilation():
    assert taps(jnp.zeros((2, 0, 3)), 3, 4).shape == (2, 0, 9)
    x = jnp.arange(1.0, 4)[None, :, None]
    np.testing.assert_array_equal(taps(x, 2, 5)[0], [[0, 1], [0, 2], [0, 3]])
    np.testing.assert_array_equal(taps(x, 3, 1)[0], [[0, 0, 1], [0, 1, 2], [1, 2, 3]])


@pytest.mark.parametrize(("kernel", "dilations"), [(2, (1, 2, 4) * 2), (3, (1, 2))])
def test_the_gradient_reaches_as_far_as_the_formula_says(kernel, dilations):
    field = receptive_field(kernel, dilations)
    length = field + 5
    net = WaveNet(8, 16, 7, kernel, dilations)
    x = jax.random.normal(ROOT, (1, length, 4))
    params = net.init(ROOT, x[:, :1], None)

    @jax.jit
    @jax.grad
    def gradient(x):
        return jnp.sin(net.apply(params, x, None)[0, -1]).sum()

    support = np.abs(gradient(x)[0]).sum(axis=-1) > 0  # [length]
    assert support[-field:].all() and not support[:-field].any()


def test_field_of_the_paper_and_of_the_model():
    assert receptive_field(2, tuple(2**i for i in range(10))) == 1025  # 1,023 below the convolution in front, and one
    assert build().receptive_field == 1 + 1 + (1 + 2 + 4)
    assert wavenet.from_config(wavenet.Config(), {"net": Optimizer(optax.sgd(0.1))}).receptive_field == 1024


def test_causal():
    model, batch, t = build(), batch_of(), 9
    logits = jax.jit(model.logits)
    before = logits(state(), batch)
    after = logits(state(), batch | {"audio": batch["audio"].at[:, t].add(3_000)})
    np.testing.assert_array_equal(before[:, : t + 1], after[:, : t + 1])  # sample t is predicted from those before it
    assert (np.abs(before[:, t + 1] - after[:, t + 1]).max(axis=1) > 1e-6).all()


@pytest.mark.parametrize(
    ("output", "kernel"), [("mu_law", 2), pytest.param("logistic_mixture", 3, marks=pytest.mark.slow)]
)
def test_queues_equal_the_whole_sound(output, kernel):
    model, batch = build(output, kernel), batch_of()
    whole = jax.jit(model.logits)(state(output, kernel), batch)
    tokens, decode = model.tokens(batch), jax.jit(model.decode_token)
    for prompt in (0, 5, 19):  # shorter and longer than the queues
        cache = model.prefill(state(output, kernel), tokens[:, :prompt], T, batch)
        assert {leaf.ndim and leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {0, B}
        for t in range(prompt, T):
            outputs, cache = decode(state(output, kernel), cache, tokens[:, t])
            np.testing.assert_allclose(outputs, whole[:, t], rtol=1e-4, atol=1e-4)


def test_the_class_is_heard():
    model, batch = build(), batch_of()
    logits = jax.jit(model.logits)
    there = logits(state(), batch | {"label": batch["label"] + 1})
    assert (np.abs(logits(state(), batch) - there).max(axis=(1, 2)) > 1e-4).all()


def test_silence_weighs_in_training_what_it_should_and_nothing_in_evaluation():
    batch = batch_of() | {"mask": jnp.ones((B, T)).at[:, 16:].set(0)}
    variables = state().nets["net"].variables

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def loss(silence, train):
        return build(silence=silence).terms(variables, batch, ROOT, step=jnp.int32(0), train=train).means["loss"]

    heard, all_of_it = loss(0.0, True), loss(0.25, True)
    np.testing.assert_array_equal(heard.weight, [16] * B)
    np.testing.assert_array_equal(all_of_it.weight, [18] * B)
    assert (all_of_it.total > heard.total).all()
    np.testing.assert_allclose(loss(0.25, False).total, heard.total, rtol=1e-6)


def test_a_flat_model_gives_log_256():
    net = state().nets["net"]
    flat = state().replace(nets={"net": net.replace(params=jax.tree.map(jnp.zeros_like, net.params))})
    means = jax.jit(build().eval_step)(flat, batch_of(), ROOT)
    np.testing.assert_allclose(means["loss"].total / means["loss"].weight, math.log(256), rtol=1e-6)


def test_greedy_samples_are_the_likeliest_codes_and_labels_are_kept():
    model = build()
    sample = jax.jit(lambda options: model.sample(state(), ROOT, CLASSES, options), static_argnums=0)
    sound = sample(wavenet.Sampling(length=12, temperature=0.0))
    assert sound.shape == (CLASSES, 12) and sound.dtype == jnp.int16
    label = jnp.arange(CLASSES, dtype=jnp.int32)
    logits = jax.jit(model.logits)(state(), {"audio": sound, "label": label})
    np.testing.assert_array_equal(logits.argmax(-1), ops.mu_law_encode(sound))
    one = sample(wavenet.Sampling(length=12, temperature=0.0, label=2))
    np.testing.assert_array_equal(one, np.tile(sound[2], (CLASSES, 1)))


def test_companding_is_g711s_continuous_form():
    x = np.linspace(-1, 1, 101)
    expected = np.sign(x) * np.log(1 + 255 * np.abs(x)) / np.log(256)
    np.testing.assert_allclose(ops.compand(jnp.asarray(x, jnp.float32)), expected, atol=1e-6)
    np.testing.assert_allclose(ops.expand(ops.compand(jnp.asarray(x, jnp.float32))), x, atol=1e-6)


def test_mu_law_round_trip_of_every_amplitude():
    audio = np.arange(-32768, 32768).astype(np.int16)
    codes = np.asarray(ops.mu_law_encode(jnp.asarray(audio)))
    assert codes.min() == 0 and codes.max() == 255 and (np.diff(codes) >= 0).all()
    assert codes[32768] == build().start == 128
    back = np.asarray(ops.mu_law_decode(jnp.asarray(codes)))
    x = np.abs(audio.astype(np.float64)) / 32768
    bound = 32768 * (1 / 255 + x) * (256 ** (1 / 255) - 1) + 0.5
    error = np.abs(back.astype(np.int64) - audio)
    assert (error <= bound * 1.001).all()
    assert (error / bound).max() > 0.9  # no code is wasted
    np.testing.assert_array_equal(ops.mu_law_encode(jnp.asarray(back)), codes)


@pytest.mark.parametrize("log_scale", [-14.0, -9.0, -4.0, 0.0])
def test_logistic_mixture_sums_to_one_over_16_bits(log_scale):
    grid = wavenet.to_grid(jnp.arange(-32768, 32768))  # [65536]
    assert float(grid[0]) == -1 and float(grid[-1]) == 1
    logits, means = jax.random.normal(ROOT, (2, 1, 3))
    log_prob = losses.logistic_mixture_log_prob(
        logits, 0.7 * means, jnp.full((1, 3), log_scale), grid, event=0, levels=wavenet.LEVELS
    )
    np.testing.assert_allclose(np.exp(np.asarray(log_prob, np.float64)).sum(), 1, atol=5e-3)


def test_amplitudes_are_drawn_as_often_as_they_are_likely():
    scale = math.log(4 / 32768) - wavenet.LOG_SCALE
    parameters = jnp.array([0.5, -0.5, 100.5 / 32768, 110.5 / 32768, scale, scale - 1])
    n = 20_000
    keys = jax.random.split(ROOT, n)
    drawn = jax.jit(wavenet.draw_amplitude, static_argnums=2)(keys, jnp.tile(parameters, (n, 1)), Text())
    values = np.arange(60, 150)
    outputs = jnp.tile(parameters, (1, len(values), 1))
    p = np.exp(-np.asarray(build("logistic_mixture").nats(outputs, jnp.asarray(values)[None])))[0]
    np.testing.assert_allclose(p.sum(), 1, atol=0.01)
    found = (np.asarray(drawn)[:, None] == values).mean(axis=0)
    np.testing.assert_allclose(found, p, atol=5 * math.sqrt(p.max() / n))
    greedy = wavenet.draw_amplitude(keys[:1], parameters[None], Text(temperature=0.0))
    assert int(greedy[0]) == 100


def test_the_mixture_learns_a_tone():
    tone = (8000 * np.sin(np.arange(T) * 0.7)).astype(np.int16)
    batch = batch_of() | {"audio": jnp.tile(tone, (B, 1))}
    cfg = wavenet.Config(output="logistic_mixture", mixtures=2, width=8, skip=8, stacks=1, depth=3)
    model = wavenet.from_config(cfg, {"net": Optimizer(optax.adam(0.01))})
    start = jax.jit(model.init)(ROOT, batch)
    _, means = jax.jit(lambda s: jax.lax.scan(lambda s, _: model.train_step(s, batch, ROOT), s, length=300))(start)
    loss = means["loss"].total / means["loss"].weight
    assert np.isfinite(loss).all()
    assert float(loss[0] - loss[-1]) > 2
    sound = jax.jit(lambda s: model.sample(s, ROOT, 2, wavenet.Sampling(length=9)))(start)
    assert sound.dtype == jnp.int16 and len(np.unique(sound)) > 5
