"""Conditioning on captions: networks, options of sampling, dropout, guidance, sequences."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.core.captions import Captions
from gen_jax.core.gradients import Optimizer
from gen_jax.data.source import Info
from gen_jax.errors import ConfigError
from gen_jax.models import base, diffusion, masked_diffusion, pixel_transformer
from gen_jax.nets.dit import DiT
from gen_jax.nets.unet import UNet
from gen_jax.settings import validate
from gen_jax.text import WordTokenizer

KEY = jax.random.key(0)
NETS = {
    "dit": DiT(patch=2, layers=1, heads=2, width=8, vocab=5, caption_layers=1),
    "unet": UNet(patch=1, widths=(8, 16), blocks=1, attention=(2,), heads=2, vocab=5, caption_layers=1),
}
SMALL = dict(image=(4, 4, 1), patch=2, layers=1, heads=2, width=8, vocab=5, caption_layers=1, caption_dropout=0.25)
WORDS = WordTokenizer(("blue", "circle", "red", "two"))
INFO = Info("image", (4, 4, 1), vocab_size=5, captions=((3, 2, 0), (4, 1, 2)))


def moved(variables):
    return jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), variables)


@pytest.mark.parametrize("name", ["dit", pytest.param("unet", marks=pytest.mark.slow)])
def test_a_network_reads_the_words_of_its_caption_in_their_order_and_no_padding(name):
    net = NETS[name]
    x, log_snr, caption = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.zeros(2), jnp.array([[1, 2, 0], [3, 0, 0]])
    variables = jax.jit(net.init)(KEY, x, log_snr, caption)
    apply = jax.jit(net.apply)
    assert (apply(variables, x, log_snr, caption) == 0).all()
    random = moved(variables)
    plain = apply(random, x, log_snr, caption)
    for changed in ([[1, 3, 0], [4, 0, 0]], [[2, 1, 0], [3, 3, 0]], [[0, 0, 0], [0, 0, 0]]):
        away = jnp.abs(apply(random, x, log_snr, jnp.array(changed)) - plain).reshape(2, -1).max(1)
        assert (away > 1e-4).all(), changed
    wide = apply(random, x, log_snr, jnp.pad(caption, ((0, 0), (0, 2))))
    np.testing.assert_allclose(wide, plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(apply(random, x[1:], log_snr[1:], caption[1:, :1]), plain[1:], rtol=1e-4, atol=1e-5)


def test_captions_become_tokens_in_turn():
    asked = Captions(captions=("two red", (1, 2, 3), "")).prepared(INFO, WORDS.encode)
    assert asked.captions == ((4, 3, 0), (1, 2, 3), (0, 0, 0))
    assert asked.caption_rows(4).tolist() == [[4, 3, 0], [1, 2, 3], [0, 0, 0], [4, 3, 0]]
    assert asked.titles(4, 5, WORDS.decode) == ["two red", "blue circle red", "", "two red"]
    assert asked.titles(4, 0, WORDS.decode) == asked.titles(4, 5, None) == []
    given = Captions().prepared(INFO, WORDS.encode)
    assert given.captions == () and given.caption_rows(3).tolist() == [[3, 2, 0], [4, 1, 2], [3, 2, 0]]


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (("red", "two green"), "captions: expected words of blue, circle, red, two; got 'green'"),
        (("two red circle blue",), "captions: expected at most 3 tokens, as in the data, got 4"),
        (((1, 5),), "captions: expected token ids from 0 to 4, got 5"),
    ],
)
def test_captions_that_the_data_do_not_know_are_refused(captions, message):
    with pytest.raises(ValueError, match=message):
        Captions(captions=captions).prepared(INFO, WORDS.encode)


def config(**fields):
    return validate(diffusion.Config, SMALL | fields, "config.model")


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        (dict(vocab=0, caption_layers=2, caption_dropout=0.0), dict(captions=("red",)), "captions: expected none"),
        (dict(caption_dropout=0.0), dict(captions=("red", " ")), "captions: expected words"),
        (dict(caption_dropout=0.0), dict(guidance=2.0), "guidance: expected 1 for a model without class_dropout or"),
        ({}, dict(guidance=2.0, captions=("", (0, 0))), "guidance: expected 1 beside captions without words"),
    ],
)
def test_what_a_model_cannot_sample_is_refused(fields, options, message):
    with pytest.raises(ValueError, match=message):
        diffusion.Sampling(**options).check(config(**fields))
    diffusion.Sampling(guidance=2.0, captions=("red", "")).check(config())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(vocab=0), "caption_layers: expected 2 for a model without captions"),
        (dict(vocab=0, caption_layers=2), r"caption_dropout: expected 0\.0 for a model without captions"),
        (dict(num_classes=3), "vocab: expected 0 beside num_classes"),
        (dict(net="unet", patch=1, layers=6, width=128), "attention: expected a height of maps that attend"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        config(**fields)


def test_captions_must_be_the_datas():
    config().check_data(INFO)
    for info, message in (
        (dataclasses.replace(INFO, captions=()), "expected 0, the data have no captions, got 5"),
        (dataclasses.replace(INFO, vocab_size=6), "expected 6, as in the data, got 5"),
    ):
        with pytest.raises(ConfigError, match=rf"config\.model\.vocab: {message}"):
            config().check_data(info)
    with pytest.raises(ConfigError, match=r"config\.model\.caption_length: expected 3, as in the data, got 2"):
        fields = dict(image=(4, 4, 1), vocab=5, caption_length=2)
        validate(pixel_transformer.Config, fields, "config.model").check_data(INFO)


# Diffusion -----------------------------------------------------------------------------------------------------------


def batch_of(n):
    rng = np.random.default_rng(0)
    caption, image = rng.integers(1, 5, (n, 3)), rng.integers(0, 256, (n, 4, 4, 1))
    numbers = jnp.arange(n)
    return {
        "image": jnp.asarray(image, jnp.uint8),
        "caption": jnp.asarray(caption, jnp.int32),
        "index": numbers,
        "valid": numbers >= 0,
    }


def build():
    return diffusion.from_config(config(), {"net": Optimizer(optax.adam(1e-2))})


def test_the_caption_is_left_out_in_its_share_of_training_and_never_in_evaluation():
    seen = []

    class Spy(nn.Module):
        def __call__(self, x, log_snr, given, train=False):
            jax.debug.callback(lambda given: seen.append(np.asarray(given)), given)
            return x

    model, batch = dataclasses.replace(build(), network=Spy()), batch_of(4000)
    model.terms({}, batch, KEY, step=jnp.int32(0), train=True)
    jax.effects_barrier()
    given = seen.pop()
    empty = (given == 0).all(1)
    assert empty.mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(given[~empty], np.asarray(batch["caption"])[~empty])
    model.terms({}, batch_of(8), jax.random.split(KEY, 8), step=jnp.int32(0), train=False)
    jax.effects_barrier()
    assert all((given == np.asarray(batch_of(8)["caption"])).all() for given in seen) and len(seen) == 2


def test_samples_follow_their_own_caption_and_guidance_goes_away_from_none():
    model = build()
    state = jax.jit(model.init)(KEY, batch_of(2))
    net = state.nets["net"]
    state = dataclasses.replace(state, nets={"net": dataclasses.replace(net, params=moved(net.params))})

    def draw(*captions, **options):
        asked = diffusion.Sampling(steps=2, captions=captions, **options).prepared(INFO, WORDS.encode)
        return np.asarray(base.sampler(model, 3, asked)(state, KEY), int)

    asked = ("red circle", "blue", "")
    plain, blue, none = draw(*asked), draw("blue"), draw("")
    same = np.array([[(abs(a - b) <= 1).all() for a, b in zip(plain, other, strict=True)] for other in (blue, none)])
    assert same.tolist() == [[False, True, False], [False, False, True]]
    assert (np.abs(draw(*asked, guidance=0.0) - none) <= 1).all()
    guided = draw(*asked, guidance=3.0)
    assert [(abs(a - b) <= 1).all() for a, b in zip(plain, guided, strict=True)] == [False, False, True]


@pytest.mark.parametrize("module", [diffusion, masked_diffusion])
def test_inpainting_takes_the_captions_of_the_batch_unless_others_are_asked_for(module):
    model = module.from_config(validate(module.Config, SMALL, "config.model"), {"net": Optimizer(optax.adam(1e-2))})
    batch = batch_of(3)
    state, mask = jax.jit(model.init)(KEY, batch), jnp.ones((3, 4, 4, 1))

    def label(**options):
        asked = module.Sampling(**options).prepared(INFO, WORDS.encode)
        return model.inpaint_init(state, KEY, batch, mask, asked)["label"].tolist()

    assert label() == batch["caption"].tolist()
    assert label(captions=("red", "two")) == [[3, 0, 0], [4, 0, 0], [3, 0, 0]]


# Sequences -----------------------------------------------------------------------------------------------------------


def test_a_sequence_is_drawn_by_its_likelihood_after_its_caption():
    optimizer = Optimizer(optax.adam(1e-2))
    model = pixel_transformer.build(optimizer, (2, 2, 1), 2, 0, 5, 3, layers=1, heads=2, width=8)
    images = jnp.asarray(list(itertools.product((0, 1), repeat=4)), jnp.int32).reshape(16, 2, 2, 1)
    pairs = {"values": images[jnp.array([15, 0])], "caption": jnp.array([[3, 4, 0], [1, 0, 0]])}
    assert model.tokens(pairs).tolist() == [[6, 7, 3, 2, 1, 1, 1, 1], [4, 3, 3, 2, 0, 0, 0, 0]]
    state = jax.jit(model.init)(KEY, pairs)
    state = jax.jit(lambda s: jax.lax.scan(lambda s, _: model.train_step(s, pairs, KEY), s, length=20)[0])(state)

    def expected(caption):
        batch = {"values": images, "caption": jnp.broadcast_to(jnp.array(caption), (16, 3))}
        return np.exp(model.log_prob(state, batch, KEY, 1))

    options = pixel_transformer.Sampling(captions=("red two", "blue")).prepared(INFO, WORDS.encode)
    samples = np.asarray(jax.jit(lambda: model.sample(state, KEY, 8000, options))())
    drawn = samples.reshape(8000, 4) // 255 @ [8, 4, 2, 1]
    for i, caption in enumerate(([3, 4, 0], [1, 0, 0])):
        assert expected(caption).sum() == pytest.approx(1, rel=1e-4)
        np.testing.assert_allclose(np.bincount(drawn[i::2], minlength=16) / 4000, expected(caption), atol=0.03)
    assert np.abs(expected([3, 4, 0]) - expected([1, 0, 0])).max() > 0.1
    assert expected([3, 4, 0]).argmax() == 15 and expected([1, 0, 0]).argmax() == 0
    with pytest.raises(ValueError, match="captions: expected words"):
        fields = dict(image=(2, 2, 1), vocab=5, caption_length=3)
        cfg = validate(pixel_transformer.Config, fields, "config.model")
        pixel_transformer.Sampling(captions=("",)).check(cfg)
