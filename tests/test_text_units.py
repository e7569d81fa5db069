"""Units of a split's text, for every tokeniser, against a model whose every token costs the same."""

import math

import jax
import jax.numpy as jnp
import pytest

from gen_jax import data, evaluators
from gen_jax.core.state import Mean, State
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import Context
from gen_jax.models import code_prior, gan, linear_ar, transformer, vae, vaegan, wavenet
from gen_jax.models.base import ModelConfig

STATE = State(jnp.zeros((), jnp.int32), {})
DOCUMENTS = [f"你{i:02}> the cat, 你好 😀\r\n" + "of the mat " * i for i in range(20)]


class Uniform:
    """A token costs log V."""

    def __init__(self, vocab):
        self.vocab = vocab

    def eval_step(self, state, batch, rng):
        weight = batch["mask"] * batch["valid"][:, None]
        return {"loss": Mean((weight * jnp.log(1.0 * self.vocab)).sum(1), weight.sum(1))}


@pytest.mark.parametrize("documents", ["joined", "packed"])
@pytest.mark.parametrize(
    "section", [{"tokenizer": "byte"}, {"tokenizer": "char"}, {"tokenizer": "bpe", "vocab_size": 280}]
)
def test_units_of_a_split(tmp_path, monkeypatch, section, documents):
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "cache"))
    for i, document in enumerate(DOCUMENTS):
        (tmp_path / f"{i:02}.txt").write_bytes(document.encode())
    source = dict(source="text_file", path=str(tmp_path), context=16, documents=documents, test=0.3)
    dataset = data.load(data.parse(source | section), 0)
    vocab = dataset.info.vocab_size

    def batches(split):
        feed = dataset.eval_feed(split, 4)
        return (feed.assemble(feed.resident, feed.rows(i)) for i in range(feed.num_batches))

    decode, count_bytes = dataset.tokenizer.decode, dataset.tokenizer.num_bytes
    context = Context(Uniform(vocab), dataset.info, batches, 4, decode, jax.random.key(0), count_bytes=count_bytes)
    found = evaluators.build(evaluators.parse({"type": "mean"}), context)(STATE).scalars
    nats = (dataset.sizes["test"] - 1) * math.log(vocab)  # the first token of the split is no target
    text = dataset.tokenizer.decode(dataset.tokens["test"]).encode()
    # the first token, which is no target, is an end, or 你 or a byte of it
    first = (
        0
        if documents == "packed"
        else 1
        if section["tokenizer"] == "byte"
        else dataset.tokenizer.num_bytes(dataset.tokens["test"][:1])
    )
    counted = text[first:]
    if documents == "packed":  # the end tokens cost nats and have no bytes
        ours = [one.encode() for one in DOCUMENTS if one.encode()[:5] in text]
        assert len(ours) == 6 and sum(map(len, ours)) == len(counted)
    assert found["loss"] == pytest.approx(math.log(vocab))
    assert found["perplexity"] == pytest.approx(vocab)
    assert found["bits_per_token"] == pytest.approx(math.log2(vocab))
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(counted))


def test_a_model_must_know_the_end_that_the_data_have():
    model = transformer.Config(vocab=300, end=255)
    with pytest.raises(ConfigError, match=r"config\.model\.end: expected 256, as in the data, got 255"):
        model.check_data(data.Info("tokens", (9,), vocab_size=257, end=256))
    model.check_data(data.Info("tokens", (9,), vocab_size=256, end=255))
    model.check_data(data.Info("tokens", (9,), vocab_size=256))


@pytest.mark.parametrize(
    ("config", "info", "message"),
    [
        (vae.Config(image=(8, 8, 1), num_classes=7), dict(), "num_classes: expected 10, as in the data, got 7"),
        (vae.Config(image=(8, 8, 3)), dict(), r"image: expected \(8, 8, 1\), as in the data, got \(8, 8, 3\)"),
        (gan.Config(image=(8, 8, 1), num_classes=7), dict(), "num_classes: expected 10, as in the data, got 7"),
        (gan.Config(data_dim=3), dict(kind="vector", shape=(2,)), "data_dim: expected 2, as in the data, got 3"),
        (gan.Config(data_dim=3), dict(), "expected vectors, as the model reads, found image"),
        (wavenet.Config(), dict(), "expected sound, as the model reads, found image"),
        (wavenet.Config(num_classes=7), dict(kind="audio", shape=(9,)), "num_classes: expected 10, as in the data"),
        (linear_ar.Config(data_dim=3), dict(kind="vector", shape=(2,)), "data_dim: expected 2, as in the data"),
        (transformer.Config(vocab=300), dict(), "expected tokens, as the model reads, found image"),
        (transformer.Config(vocab=9), dict(kind="tokens", shape=(9,), vocab_size=10), "vocab: expected at least 10"),
        (code_prior.Config(), dict(), r"first_stage.image: expected \(8, 8, 1\), as in the data"),
        (vaegan.Config(), dict(), r"image: expected \(8, 8, 1\), as in the data"),
        (ModelConfig(), dict(), r"expected Config.check_data\(info\) in gen_jax.models.base, found none"),
    ],
)
def test_each_model_checks_its_data(config, info, message):
    with pytest.raises(ConfigError, match=message):
        config.check_data(data.Info(**(dict(kind="image", shape=(8, 8, 1), num_classes=10) | info)))
