"""Masked diffusion models: bounds and samples against enumeration, guidance, sampling, what is refused."""

import dataclasses
import functools
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core.gradients import Optimizer
from gen_jax.core.info import Info
from gen_jax.core.masking import CLOSED, MASK
from gen_jax.errors import ConfigError
from gen_jax.models import abilities_base, base, masked_diffusion, masked_text
from gen_jax.settings import validate

KEY = jax.random.key(0)
SMALL = dict(image=(2, 2, 1), levels=2, patch=1, layers=1, heads=2, width=8)
GUIDED = dict(num_classes=3, class_dropout=0.2)
TEXT = dict(vocab=5, context=6, layers=1, heads=2, width=8, start=3)
CODES = np.array(list(itertools.product((0, 1), repeat=4)), np.uint8)  # all images
INFO = Info("tokens", (7,), vocab_size=5)


def moved(state):
    """With random parameters: the network starts at 0, and would not read its inputs."""
    net = state.nets["net"]
    leaves, tree = jax.tree.flatten(net.params)
    keys = jax.random.split(KEY, len(leaves))
    params = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return state.replace(nets={"net": dataclasses.replace(net, params=tree.unflatten(params))})


@functools.cache
def build(*, text=False, random=True, **fields) -> tuple[Any, Any]:
    module = masked_text if text else masked_diffusion
    cfg: Any = validate(module.Config, (TEXT if text else SMALL) | fields, "config.model")
    model = module.from_config(cfg, {"net": Optimizer(optax.adam(1e-2))})
    state = jax.jit(model.init)(KEY, {})
    return model, moved(state) if random else state


def images(codes):
    numbers = jnp.arange(len(codes))
    image = jnp.asarray(255 * np.asarray(codes), jnp.uint8).reshape(-1, 2, 2, 1)
    return {"image": image, "label": numbers % 3, "index": numbers, "valid": numbers >= 0}


@functools.cache
def log_probs():
    """Set of seen tokens and their values -> log p of each token, [3^4, 4, 2], by a code of base 3."""
    model, state = build()
    patterns = jnp.asarray(list(itertools.product((MASK, 0, 1), repeat=4)))
    return np.asarray(jax.nn.log_softmax(model.denoiser(state.nets["net"].averaged, None)(patterns)))


def of_orders(x):
    """log p of an image for each of the 24 orders in which its pixels may be set."""
    found = []
    for order in itertools.permutations(range(4)):
        seen, total = np.full(4, MASK), 0.0
        for i in order:
            total += log_probs()[np.dot(seen + 1, [27, 9, 3, 1]), i, x[i]]
            seen[i] = x[i]
        found.append(total)
    return np.array(found)


def test_the_bound_is_the_mean_over_the_orders():
    model, state = build()
    batch = images(np.repeat(CODES[[1, 6, 14]], 1000, axis=0))
    expected = np.array([of_orders(x).mean() for x in CODES[[1, 6, 14]]])
    assert np.std(expected) > 0.1 and np.std(of_orders(CODES[6])) > 0.02
    means = jax.jit(model.eval_step)(state, batch, KEY)
    for found in (jax.jit(lambda: model.log_prob(state, batch, KEY, 3))(), means["elbo"].total):
        each = np.asarray(found).reshape(3, 1000)
        noise = each.std(1) / math.sqrt(1000)
        assert (np.abs(each.mean(1) - expected) < 4 * noise).all() and (noise < 0.04).all()
    np.testing.assert_allclose(means["loss"].total, -means["elbo"].total)
    assert (means["loss"].weight == 4).all()


@pytest.mark.slow
def test_samples_follow_the_mean_over_orders_of_the_likelihood():
    model, state = build()
    draw = base.sampler(model, 4000, masked_diffusion.Sampling(steps=50))
    pixels = np.asarray(draw(state, KEY))
    assert pixels.shape == (4000, 2, 2, 1) and set(np.unique(pixels)) == {0, 255}
    shares = np.bincount((pixels.reshape(-1, 4) // 255) @ [8, 4, 2, 1], minlength=16) / 4000
    expected = [np.exp(of_orders(x)).mean() for x in CODES]
    assert sum(expected) == pytest.approx(1, rel=1e-4) and np.std(expected) > 0.02
    np.testing.assert_allclose(shares, expected, atol=0.025)


def test_at_first_all_levels_are_equally_likely():
    model, state = build(levels=5, random=False)
    batch = images(CODES)
    means = jax.jit(model.eval_step)(state, batch, KEY)
    np.testing.assert_allclose(means["elbo"].total, -4 * math.log(5), rtol=1e-5)
    _, train = jax.jit(model.train_step)(state, batch, KEY)
    assert set(train) >= {"loss"} and train["loss"].weight == 64
    assert train["loss"].total / 64 == pytest.approx(math.log(5), rel=1e-5)


def test_guidance_at_1_is_conditional_and_at_0_unconditional():
    model, state = build(**GUIDED, positions="learned")
    params = state.nets["net"].averaged
    tokens = jnp.asarray([[MASK, 1, MASK, 0], [MASK] * 4])

    def logits(label, **options):
        asked = masked_diffusion.Sampling(label=label, **options)
        labels = model.label_asked(asked, 2)
        return jax.nn.log_softmax(model._sampler(params, labels, asked)(tokens))

    plain, none = logits(2), logits("none")
    np.testing.assert_allclose(logits(2, guidance=1.0 + 1e-6), plain, atol=1e-4)
    np.testing.assert_allclose(logits(2, guidance=0.0), none, atol=1e-4)
    twice = jax.nn.log_softmax(2 * plain - none)
    np.testing.assert_allclose(logits(2, guidance=2.0), twice, atol=1e-4)
    assert np.abs(plain - none).max() > 0.05 and np.abs(plain - logits(1)).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ancestral", "confidence"])
def test_samples_are_the_same_in_a_loop_step_by_step_and_in_any_company(sampler, monkeypatch):
    model, state = build(**GUIDED)
    options = masked_diffusion.Sampling(steps=3, sampler=sampler)
    loop = jax.jit(lambda: model.sample(state, KEY, 6, options))()
    few = base.sampler(model, 3, options)(state, KEY)
    monkeypatch.setattr(base.ops, "convolves", lambda jaxpr: True)
    np.testing.assert_array_equal(loop, base.sampler(model, 6, options)(state, KEY))
    np.testing.assert_array_equal(few, loop[:3])


@pytest.mark.slow
def test_averaged_parameters_are_what_samples_and_bounds_read():
    model, state = build()
    model = dataclasses.replace(model, optimizer=Optimizer(optax.adam(1e-2), ema_decay=0.9))
    state = moved(jax.jit(model.init)(KEY, {}))  # the averages stay at the initial ones
    batch = images(CODES)
    log_prob = jax.jit(lambda: model.log_prob(state, batch, KEY, 1))()
    np.testing.assert_allclose(log_prob, -4 * math.log(2), rtol=1e-5)
    carry = model.sample_init(state, KEY, 1, options := masked_diffusion.Sampling(steps=1, temperature=0.0))
    assert (model.sample_step(state, carry, jnp.int32(0), options)["tokens"] == 0).all()  # of equal logits the first


@pytest.mark.slow
def test_a_class_changes_the_bound_and_is_left_out_in_its_share_of_training():
    model, state = build(**GUIDED)
    batch = images(CODES)
    one, other = (jax.jit(model.eval_step)(state, batch | {"label": batch["label"] * 0 + k}, KEY) for k in (0, 1))
    assert np.abs(one["elbo"].total - other["elbo"].total).max() > 0.05
    seen = []

    class Spy(masked_diffusion.MaskedDiffusion):
        def denoiser(self, variables, label, rngs=None):
            seen.append(np.asarray(label))
            return lambda tokens: jnp.zeros((*tokens.shape, 2))

    spy = Spy(*(getattr(model, field.name) for field in dataclasses.fields(model)))
    many = images(np.tile(CODES, (250, 1)))
    spy.terms({}, many, KEY, step=jnp.int32(0), train=True)
    spy.terms({}, many, jax.random.split(KEY, 4000), step=jnp.int32(0), train=False)
    train, test = seen
    assert (train == 3).mean() == pytest.approx(0.2, abs=0.03)
    assert (train[train < 3] == np.asarray(many["label"])[train < 3]).all() and (test == many["label"]).all()


def test_the_network_sees_no_hidden_token_and_how_many_are_seen():
    model, _ = build(**GUIDED)
    seen = []

    class Spy(nn.Module):
        def __call__(self, x, level, label, train=False):
            seen.append((np.asarray(x), np.asarray(level)))
            return x

    tokens = jnp.asarray([[MASK, 1, CLOSED, 0], [MASK] * 4])
    dataclasses.replace(model, network=Spy()).denoiser({}, None)(tokens)
    ((x, level),) = seen
    np.testing.assert_array_equal(x.reshape(2, 4, 2)[0], [[0, 0], [0, 1], [0, 0], [1, 0]])
    assert not x[1].any()
    np.testing.assert_allclose(level, np.log([2.5 / 2.5, 0.5 / 4.5]), rtol=1e-6)


def test_what_is_known_of_a_picture_is_kept_and_the_rest_drawn():
    model, state = build(**GUIDED)
    assert isinstance(model, abilities_base.Inpaints)
    batch = images(np.repeat(CODES, 4, axis=0))
    mask = jnp.broadcast_to(jnp.asarray([[1.0], [0.0]])[..., None], (64, 2, 1, 1)).repeat(2, axis=2)
    paint = abilities_base.inpainter(model, masked_diffusion.Sampling(steps=2))
    found, given = np.asarray(paint(state, KEY, batch, mask)), np.asarray(batch["image"])
    assert (found[:, 0] == given[:, 0]).all() and 0.2 < (found[:, 1] == given[:, 1]).mean() < 0.8
    carry = model.inpaint_init(state, KEY, batch, mask, masked_diffusion.Sampling())
    assert carry["label"].tolist() == batch["label"].tolist() and (carry["tokens"][:, 2:] == MASK).all()


def test_the_loss_at_a_time_is_that_of_as_many_hidden_values():
    """Near time 1 all are hidden, and at a linear rate the loss is the mean nats of all."""
    model, state = build()
    batch = images(CODES)
    late = jax.jit(lambda: model.timed_loss(state, batch, jnp.full(16, 0.99), KEY))()
    expected = [-log_probs()[0, np.arange(4), x].mean() for x in CODES]
    np.testing.assert_allclose(late, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        (dict(guidance=2.0), dict(num_classes=3), "guidance: expected 1 for a model without class_dropout"),
        (dict(guidance=2.0, label="none"), GUIDED, "guidance: expected 1 beside label = 'none'"),
        (dict(label="none"), dict(num_classes=3), "label: expected 'each' or a class below 3"),
    ],
)
def test_what_a_model_cannot_sample_is_refused(options, fields, message):
    cfg = validate(masked_diffusion.Config, SMALL | fields, "config.model")
    with pytest.raises(ValueError, match=message):
        masked_diffusion.Sampling(**options).check(cfg)


# Text -------------------------------------------------------------------------------------------------------------


def test_hidden_values_are_shown_in_grey():
    model, state = build()
    carry = {"tokens": jnp.asarray([[0, 1, -1, 1]])}
    shown = model.sample_shown(state, carry, jnp.int32(1), masked_diffusion.Sampling())
    assert isinstance(model, abilities_base.ShowsSteps) and shown["values"].ravel().tolist() == [0, 255, 128, 255]


def test_a_window_counts_its_targets_and_hides_what_is_past_the_text():
    model, _ = build(text=True)
    window = jnp.asarray([[1, 2, 3, 4, 0], [4, 3, 2, 2, 2]])
    batch = {"tokens": window, "mask": jnp.asarray([[1, 1, 1, 1], [1, 1, 0, 0]], jnp.float32)}
    tokens, counted = model.read(batch, None)
    assert tokens.tolist() == [[1, 2, 3, 4, 0, CLOSED, CLOSED], [4, 3, 2, CLOSED, CLOSED, CLOSED, CLOSED]]
    assert counted.tolist() == [[False, True, True, True, True, False, False], [False, True, True] + [False] * 4]
    _, start = build(text=True, random=False)
    batch |= {"index": jnp.arange(2), "valid": jnp.ones(2, bool)}
    means = jax.jit(model.eval_step)(start, batch, KEY)
    assert means["loss"].weight.tolist() == [4, 2]
    np.testing.assert_allclose(means["loss"].total, np.array([4, 2]) * math.log(5), rtol=1e-5)


def prepared(**fields) -> Any:
    return masked_text.Sampling(**fields).prepared(INFO, None)


def test_prompts_are_kept_and_continued():
    model, state = build(text=True)
    options = prepared(prompts=((1, 2), (4,)), length=3, steps=4)
    start = np.asarray(model.sample_start(4, options))
    rest = [MASK] * 3
    assert start.tolist() == [[1, 2, *rest, CLOSED, CLOSED], [4, *rest, CLOSED, CLOSED, CLOSED]] * 2
    carry = model.sample_init(state, KEY, 4, options)
    for i in range(4):
        carry = jax.jit(functools.partial(model.sample_step, options=options))(state, carry, jnp.int32(i))
    tokens = np.asarray(carry["tokens"])
    assert (tokens[start != MASK] == start[start != MASK]).all() and (tokens[start == MASK] >= 0).all()
    found, lengths = model.sample_finish(state, carry, options)
    np.testing.assert_array_equal(found[0], tokens[0, 2:5])
    np.testing.assert_array_equal(found[1], tokens[1, 1:4])
    assert lengths.tolist() == [3] * 4
    assert np.asarray(model.sample_start(1, prepared())).tolist() == [[3] + [MASK] * 6]  # the whole context


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(length=7), "length: expected at most 6, the context of the data less the prompt"),
        (dict(length=5, prompts=((1, 2),), steps=2), None),
        (dict(length=5, prompts=((1,), (1, 2, 3))), "length: expected at most 4"),
        (dict(prompts=((1,) * 7,)), "prompts: expected at most 6 tokens, the context of the data"),
    ],
)
def test_texts_beyond_the_context_are_refused(fields, message):
    if message is None:
        assert prepared(**fields).length == 5
        return
    with pytest.raises(ValueError, match=message):
        prepared(**fields)


@pytest.mark.parametrize(
    ("module", "fields", "message"),
    [
        (masked_diffusion, dict(levels=1), "config.model.levels: expected"),
        (masked_diffusion, dict(levels=257), "config.model.levels: expected"),
        (masked_diffusion, dict(rate="none"), "config.model.rate: expected"),
        (masked_text, dict(width=9), "config.model.width: expected a multiple of heads = 2"),
        (masked_text, dict(start=5), "config.model.start: expected a token below vocab = 5, got 5"),
    ],
)
def test_contradictions_are_refused(module, fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(module.Config, (SMALL if module is masked_diffusion else TEXT) | fields, "config.model")


def test_data_that_do_not_fit_are_refused():
    cfg = validate(masked_text.Config, TEXT, "config.model")
    cfg.check_data(INFO)
    for info, message in (
        (Info("image", (2, 2, 1)), "config.data: expected tokens"),
        (Info("tokens", (9,), vocab_size=5), "config.model.context: expected at least 8"),
        (Info("tokens", (7,), vocab_size=6), "config.model.vocab: expected at least 6"),
        (Info("tokens", (7,), vocab_size=5, end=4, records=True), "config.data.documents: expected joined or packed"),
    ):
        with pytest.raises(ConfigError, match=message):
            cfg.check_data(info)
