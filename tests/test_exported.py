"""What an export is made of: states from tensors, functions for platforms, and a Transformer as GPT-2."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpt2_reference import logits
from members import SMALLEST, assert_same, smoke
from safetensors.numpy import load_file

import gen_jax
from gen_jax import cli
from gen_jax.core import ops
from gen_jax.core.state import Net, State, path_name
from gen_jax.errors import ConfigError
from gen_jax.train import train
from gen_jax.training import export, gpt2


def test_a_state_is_rebuilt_from_its_tensors():
    stats = {"batch_stats": {"mean": np.full(2, 3.0)}}
    ema = {"params": {"w": np.zeros((2, 2))}, "stats": {"batch_stats": {"mean": np.ones(2)}}, "updates": np.int32(7)}
    nets = {"a": Net({"w": np.ones((2, 2))}, (), stats, ema), "b": Net({"w": np.ones(3)}, (), {}, None)}
    state = State(np.int32(9), nets, carry=np.zeros(4), extra={"level": np.float32(2)})
    for averaged, mean in ((True, 1.0), (False, 3.0)):
        found = export.tensors(state, averaged)
        assert found.keys() == {"a/params/w", "a/batch_stats/mean", "b/params/w"}
        assert (found["a/batch_stats/mean"] == mean).all()
        again = export._rebuilt(state)(found)
        assert_same(export.tensors(again), found)
        assert (int(again.step), again.carry, again.extra) == (9, None, state.extra)


@pytest.mark.parametrize(
    "platforms, kind",
    [((), jax.default_backend()), (("rocm",), "gpu"), (("cuda", "cpu"), "cpu"), (("tpu", "cuda"), "tpu")],
)
def test_a_function_is_traced_as_each_platform_can_run_it(platforms, kind):
    seen = []
    found = export._exported(lambda x: seen.append(ops.platform()) or x, platforms, jax.ShapeDtypeStruct((), "float32"))
    assert {*seen} == {kind} and found.platforms == (platforms or (jax.default_backend(),))


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2") / "run"
    fields = ("mlp=gelu_tanh", "layers=2", "heads=4", "width=16", "dropout=0.0")
    sizes = ("total_steps=2", "steps_per_call=2", "log_every=2", "evals={}")
    train(smoke(SMALLEST["transformer"], *sizes, *(f"model.{field}" for field in fields)), path)
    return path


def test_a_transformer_becomes_gpt2_whose_logits_are_the_same(text_run, tmp_path):
    cli.main(["export", f"--workdir={text_run}", f"--out={tmp_path}", "--format=huggingface"])
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["n_layer"], config["n_head"], config["activation_function"]) == (
        "gpt2",
        2,
        4,
        "gelu_new",
    )
    found = load_file(tmp_path / "model.safetensors")
    run = gen_jax.load(text_run)
    tokens = np.arange(2 * config["n_positions"]).reshape(2, -1) % config["vocab_size"]
    batch = {"tokens": jnp.pad(tokens, ((0, 0), (0, 1))).astype(jnp.int32)}
    want = logits({name.removeprefix("transformer."): value for name, value in found.items()}, tokens, 4)
    np.testing.assert_allclose(run.model.logits(run.state, batch), want, atol=2e-4)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_its_tensors_come_back(scan, tied):
    from test_gpt2 import build

    _, state = build(scan_layers=scan, tied=tied)
    leaves = jax.tree_util.tree_leaves_with_path(state.nets["net"].params)
    params = {path_name(path): np.asarray(leaf) for path, leaf in leaves}
    back = gpt2.convert(gpt2.to_huggingface(params, 4), {name: x.shape for name, x in params.items()}, 4)
    assert_same(back, params)
    assert "lm_head.weight" in gpt2.to_huggingface(params, 4) or tied


@pytest.mark.parametrize("field", [dict(norm="rms"), dict(position="rotary"), dict(mlp="swiglu"), dict(kv_heads=2)])
def test_another_shape_is_not_gpt2(field):
    from gen_jax.models import transformer

    with pytest.raises(ConfigError, match=rf"^config\.model\.{next(iter(field))}: expected"):
        gpt2.huggingface_config(transformer.Config(heads=4, width=16, **field))
