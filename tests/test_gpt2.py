"""GPT-2's weights: logits against a NumPy forward pass and against Hugging Face's numbers; every tensor used once."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpt2_reference import logits, random_tensors
from members import assert_same
from safetensors.numpy import save_file

from gen_jax import config
from gen_jax.core import lora, optim
from gen_jax.core.state import path_name
from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.models import transformer
from gen_jax.train import train
from gen_jax.training import gpt2

SIZES = dict(vocab=31, context=12, layers=2, heads=4, width=16)
TOKENS = (np.arange(24) * 7 % 31).reshape(2, 12).astype(np.int32)

# transformers 5.23, torch 2.13: GPT2LMHeadModel(GPT2Config(vocab_size=31, n_positions=12, n_embd=16, n_layer=2,
# n_head=4)).eval() with random_tensors(2, 16, 31, 12), logits[1, -1, :8] of TOKENS
PUBLISHED = [-1.6007051, -0.8807380, 1.0740214, -1.0852853, -0.7547837, 0.1942289, -1.2074530, -1.5788385]


def build(lora_rank=0, ema=0.0, **fields):
    """A model and its first state."""
    cfg = transformer.Config(**(SIZES | dict(mlp="gelu_tanh") | fields))
    section = dict(lora=dict(rank=lora_rank, targets=(".*/qkv/kernel",)), ema=ema)
    model = transformer.from_config(cfg, {"net": optim.build(optim.Config(**section), 1)})
    return model, model.init(jax.random.key(0), {})


def predicted(model, state):
    batch = {"tokens": jnp.pad(TOKENS, ((0, 0), (0, 1)))}
    return np.asarray(jax.jit(model.logits)(state, batch))


@pytest.fixture
def tensors():
    return random_tensors(2, 16, 31, 12)


@pytest.fixture
def path(tensors, tmp_path):
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_the_reference_is_hugging_faces(tensors):
    np.testing.assert_allclose(logits(tensors, TOKENS, 4)[1, -1, :8], PUBLISHED, atol=2e-6)


@pytest.mark.parametrize("scan", [False, True])
def test_logits_equal_the_reference(tensors, path, scan):
    model, state = build(scan_layers=scan)
    loaded = gpt2.load_into(state, path, heads=4)
    np.testing.assert_allclose(predicted(model, loaded), logits(tensors, TOKENS, 4), rtol=1e-4, atol=1e-5)
    assert np.abs(predicted(model, state) - logits(tensors, TOKENS, 4)).max() > 0.1  # the test can fail


def test_the_prefix_the_buffers_and_a_tied_head_change_nothing(tensors):
    shapes = {"token/embedding": (31, 16), "position/embedding": (12, 16), "norm/scale": (16,), "norm/bias": (16,)}
    few = {name: tensors[name] for name in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias")}
    plain = gpt2.convert(few, shapes, 4)
    named = {f"transformer.{name}": value for name, value in few.items()} | {"lm_head.weight": few["wte.weight"]}
    named |= {"transformer.h.0.attn.bias": np.ones((1, 1, 12, 12)), "h.0.attn.masked_bias": np.float32(-1e4)}
    assert_same(gpt2.convert(named, shapes, 4), plain)


def test_an_untied_head_is_read_turned(tensors, tmp_path):
    head = np.random.default_rng(1).standard_normal((31, 16)).astype(np.float32)
    save_file(tensors | {"lm_head.weight": head}, tmp_path / "untied")
    _, state = build(tied=False)
    np.testing.assert_array_equal(
        gpt2.load_into(state, tmp_path / "untied", 4).nets["net"].params["logits"]["kernel"], head.T
    )


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        (dict(layers=3), {}, r"there is no tensor h\.2\.\S+ for blocks/block_2/\S+ \["),
        (dict(layers=1), {}, r"no place for h\.1\.attn\.c_attn\.bias, .* \(12 tensors\)"),
        (dict(vocab=32), {}, r"wte\.weight: the file has \[31, 16\] for token/embedding, the model \[32, 16\]"),
        (dict(mlp="swiglu"), {}, r"GPT-2 has no blocks/block_0/mlp/gate/"),
        (dict(qk_norm=True), {}, r"GPT-2 has no blocks/block_0/attention/k_norm/scale"),
        ({}, {"wte.weight": np.ones((31, 16), np.int32)}, r"wte\.weight: expected floats, the file has int32"),
        ({}, {"extra": np.zeros(2, np.float32)}, r"no place for extra \(1 tensors\)"),
        ({}, {"lm_head.weight": np.zeros((31, 16), np.float32)}, r"no place for lm_head\.weight"),
    ],
)
def test_what_does_not_fit_is_named(tensors, tmp_path, fields, change, message):
    save_file(tensors | change, tmp_path / "file")
    with pytest.raises(CheckpointError, match=message):
        gpt2.load_into(build(**fields)[1], tmp_path / "file", 4)


def test_low_rank_updates_averages_and_a_new_head_stay(tensors, tmp_path):
    save_file(tensors | {"lm_head.weight": np.ones((31, 16), np.float32)}, tmp_path / "file")
    _, state = build(lora_rank=2, ema=0.9, tied=False)
    loaded = gpt2.load_into(state, tmp_path / "file", 4, ("net/params/logits/.*",)).nets["net"]
    before = state.nets["net"]
    assert_same(lora.split(loaded.params)[1], lora.split(before.params)[1])
    assert_same(loaded.params["logits"], before.params["logits"])
    assert_same(loaded.ema["params"], loaded.params)
    assert_same(loaded.opt, before.opt)
    np.testing.assert_array_equal(loaded.params["position"]["embedding"], tensors["wpe.weight"])
    jax.jit(lambda net: jax.tree.map(jnp.negative, net), donate_argnums=0)(loaded)  # no buffer twice


@pytest.mark.parametrize(
    ("fields", "reset"),
    [
        (dict(tied=False), "logits/.*"),  # the file has no head
        (dict(vocab=40), "token/embedding"),  # nor so many tokens
        (dict(mlp_width=8, scan_layers=True), ".*/mlp/.*"),
        (dict(qk_norm=True), ".*/attention/(q|k)_norm/scale"),
    ],
)
def test_a_leaf_that_is_reset_need_not_be_in_the_file(fields, reset, tensors, path):
    _, state = build(**fields)
    loaded = gpt2.load_into(state, path, 4, (f"net/params/{reset}",))
    np.testing.assert_array_equal(loaded.nets["net"].params["position"]["embedding"], tensors["wpe.weight"])
    before = jax.tree_util.tree_leaves_with_path(state.nets["net"].params)
    kept = [re.fullmatch(reset, path_name(key)) for key, _ in before]
    assert any(kept)
    after = jax.tree.leaves(loaded.nets["net"].params)
    for keep, (_, old), new in zip(kept, before, after, strict=True):
        if keep:
            np.testing.assert_array_equal(old, new)


def smoke(*flags):
    return config.load("experiments/transformer/shakespeare_char_cpu.py:smoke", [f"--config.{flag}" for flag in flags])


def test_a_run_starts_from_the_file(tmp_path):
    tensors = random_tensors(2, 16, 256, 16)
    save_file(tensors, tmp_path / "file")
    flags = ("mesh.data=1", "model.bias=True", "optim.net.freeze=('.*',)", f"init_from.safetensors={tmp_path / 'file'}")
    experiment = smoke(*flags).model_copy(update={"evals": {}})
    params = train(experiment, tmp_path / "run").nets["net"].params
    np.testing.assert_array_equal(params["token"]["embedding"], tensors["wte.weight"])
    np.testing.assert_array_equal(params["blocks"]["block_1"]["mlp"]["up"]["kernel"], tensors["h.1.mlp.c_fc.weight"])


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (
            ("init_from.safetensors=/nowhere",),
            ConfigError,
            r"config\.init_from\.safetensors: there is no file /nowhere",
        ),
        (
            ("init_from.safetensors=x", "init_from.workdir=y"),
            ConfigError,
            r"safetensors: expected nothing where workdir",
        ),
    ],
)
def test_a_wrong_source_is_refused(flags, error, message, tmp_path):
    with pytest.raises(error, match=message):
        train(smoke(*flags), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def tensor(start, stop, kind="F32", shape=(2,)):
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (2**60, {"a": tensor(0, 8)}),  # of the header itself
        (2**64 - 1, {"a": tensor(0, 8)}),
        (None, {"a": tensor(0, 2**60, shape=(2**58,))}),
        (None, {"a": tensor(0, 2**62, shape=(2**62, 2**62))}),
        (None, {"a": tensor(0, 8), "b": tensor(4, 12)}),  # overlapping
        (None, {"a": tensor(8, 0)}),
        (None, {"a": tensor(-8, 0)}),
        (None, {"a": tensor(0, 8, kind="Q9")}),
        (None, {"a": tensor(0, 8, shape=(3,))}),
        (None, {"a": tensor(0, 8, kind="F64", shape=(2,))}),
        (None, []),
        (None, None),
    ],
)
def test_a_header_of_safetensors_that_lies_is_one_line(tmp_path, size, header):
    text = b"[" * 10**5 if header is None else json.dumps(header).encode()
    (tmp_path / "file").write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(CheckpointError, match=r"not readable as safetensors: ") as caught:
        gpt2.load_into(build()[1], tmp_path / "file", 4)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_cut_file_of_weights_is_one_line(path):
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not readable as safetensors: "):
        gpt2.load_into(build()[1], path, 4)


def test_another_file_or_model_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="file: not readable as safetensors"):
        gpt2.load_into(build()[1], tmp_path / "file", 4)
    with pytest.raises(ConfigError, match="expected the model transformer, got lstm"):
        gpt2.check(tmp_path / "file", "lstm")
