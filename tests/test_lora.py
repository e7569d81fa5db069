"""Low-rank updates against the chain rule written out; what is frozen, loaded, merged and cut over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import assert_same, smoke

from gen_jax.commands.check import parameter_table
from gen_jax.core import lora, optim
from gen_jax.core.gradients import Terms
from gen_jax.core.lora import Lora
from gen_jax.core.state import Mean
from gen_jax.errors import ConfigError
from gen_jax.train import train
from gen_jax.training.program import Program

RNG = jax.random.key(0)
TEXT = "experiments/transformer/shakespeare_char_cpu.py"  # its smoke reads Python's documentation
MATRICES = ("optim.net.lora.rank=2", "optim.net.lora.targets=('blocks/.*kernel',)")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


PARAMS = {"a": {"kernel": normal(0, 5, 4), "bias": jnp.zeros(4)}, "head": {"kernel": normal(1, 4, 1)}}


def squares(params, stats, batch, rng):
    y = jnp.tanh(batch["x"] @ params["a"]["kernel"] + params["a"]["bias"]) @ params["head"]["kernel"]
    return Terms({"loss": Mean.of((y[:, 0] - 1) ** 2)}, stats)


def build(**fields):
    section = dict(rank=2, alpha=3.0, targets=("a/kernel",)) | fields.pop("lora", {})
    return optim.build(optim.Config(lora=optim.LoraConfig(**section), **fields), updates=10)


def test_merge_is_the_sum_written_out_and_starts_at_the_base():
    params = Lora(2, 3.0, ("a/kernel",)).add(PARAMS)
    assert_same(lora.merge(params), PARAMS)
    params["a"]["kernel_lora"]["b"] = normal(3, 2, 4)
    a, b = (np.asarray(params["a"]["kernel_lora"][name]) for name in "ab")
    merged = lora.merge(params)
    np.testing.assert_allclose(merged["a"]["kernel"], PARAMS["a"]["kernel"] + 1.5 * a @ b, rtol=1e-5, atol=1e-6)
    assert_same(merged["head"], PARAMS["head"])
    plain, updates = lora.split(params)
    assert_same(plain, PARAMS)
    assert_same(lora.join(plain, updates), params)


def test_stacked_layers_get_an_update_each():
    params = {"layers": {"up": {"kernel": normal(0, 3, 5, 4)}}}
    params = Lora(2, 4.0, ("layers/up/kernel",)).add(params)
    params["layers"]["up"]["kernel_lora"]["b"] = normal(1, 3, 2, 4)
    merged = lora.merge(params)["layers"]["up"]["kernel"]
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], params["layers"])
        np.testing.assert_allclose(merged[i], lora.merge(one)["up"]["kernel"], rtol=1e-6)


def test_a_starts_with_variance_one_over_in_and_follows_the_seed():
    tree = {"kernel": jnp.zeros((400, 300))}
    one, other = (Lora(8, 8.0, ("kernel",), seed=seed).add(tree)["kernel_lora"]["a"] for seed in (0, 1))
    assert float(one.std()) == pytest.approx(0.05, rel=0.05)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(targets=("x/.*",)), r"targets: 'x/\.\*' matches no parameter; they are like a/kernel"),
        (dict(targets=("a/.*",)), r"targets: expected matrices, got a/bias \[4\]"),
        (dict(targets=("a/kernel",), train=("hed/.*",)), r"train: 'hed/\.\*' matches no parameter"),
    ],
)
def test_wrong_rules_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Lora(2, 1.0, **fields).add(PARAMS)


def test_a_convolution_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"expected matrices, got conv/kernel \[3, 3, 1, 8\]"):
        Lora(2, 1.0, (".*kernel",)).add({"conv": {"kernel": jnp.zeros((3, 3, 1, 8))}})


def test_a_step_follows_the_chain_rule():
    """dL/da = s G b^T and dL/db = s a^T G, with G the gradient in the merged matrix."""
    optimizer = build(name="sgd", lr=0.1)
    net = optimizer.init({"params": PARAMS})
    net.params["a"]["kernel_lora"]["b"] = normal(4, 2, 4)
    batch = {"x": normal(5, 8, 5)}
    new, _ = optimizer.step(net, squares, batch, RNG)
    gradient = jax.grad(lambda params: squares(params, {}, batch, RNG).means["loss"].total.mean())
    g = gradient(net.variables["params"])["a"]["kernel"]
    old, now = net.params["a"]["kernel_lora"], new.params["a"]["kernel_lora"]
    np.testing.assert_allclose(now["a"], old["a"] - 0.1 * 1.5 * g @ old["b"].T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(now["b"], old["b"] - 0.1 * 1.5 * old["a"].T @ g, rtol=1e-5, atol=1e-6)
    assert float(now["scale"]) == 1.5


def test_the_rest_keeps_its_bits_and_has_no_moments():
    optimizer = build(name="adam", lr=0.1, ema=0.9)
    net = optimizer.init({"params": PARAMS})
    assert [leaf.shape for leaf in jax.tree.leaves(net.opt) if leaf.ndim] == 2 * [(5, 2), (2, 4)]
    new = net
    for _ in range(3):
        new, _ = optimizer.step(new, squares, {"x": normal(5, 8, 5)}, RNG)
    assert_same(lora.split(new.params)[0], PARAMS)
    assert_same(lora.split(new.ema["params"])[0], PARAMS)
    assert not np.array_equal(new.averaged["params"]["a"]["kernel"], PARAMS["a"]["kernel"])
    assert new.variables["params"].keys() == PARAMS.keys()


def test_a_head_can_train_as_it_is():
    optimizer = build(name="sgd", lr=0.1, lora=dict(train=("head/.*",)), freeze=("a/kernel_lora/.*",))
    net = optimizer.init({"params": PARAMS})
    new, _ = optimizer.step(net, squares, {"x": normal(5, 8, 5)}, RNG)
    assert_same(new.params["a"], net.params["a"])
    assert not np.array_equal(new.params["head"]["kernel"], PARAMS["head"]["kernel"])


def quick(*flags):
    """A run of seconds, without evaluations."""
    return smoke(TEXT, "optim.net.ema=0.0", *flags).model_copy(update={"evals": {}})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run without updates."""
    path = tmp_path_factory.mktemp("runs") / "base"
    return path, train(quick(), path)


@pytest.mark.slow
def test_fine_tuned_the_base_is_that_of_the_other_run(base, tmp_path):
    path, before = base
    experiment = quick(*MATRICES, f"init_from.workdir={path}")
    state = train(experiment, tmp_path / "lora")
    plain, updates = lora.split(state.nets["net"].params)
    assert_same(plain, before.nets["net"].params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(updates))
    program = Program(smoke(TEXT))
    batch = next(iter(program.batches("test")))
    loss = [program.model.eval_step(s, batch, program.eval_key)["loss"].total.sum() for s in (before, state)]
    assert loss[1] < loss[0]  # evaluation sees the updates

    # a run without updates takes the merged matrices
    merged = train(quick(f"init_from.workdir={tmp_path / 'lora'}", "optim.net.freeze=('.*',)"), tmp_path / "next")
    assert_same(merged.nets["net"].params, jax.jit(lora.merge)(state.nets["net"].params))
    # and one with updates starts from the same function
    again = train(
        quick(*MATRICES, "optim.net.freeze=('.*',)", f"init_from.workdir={tmp_path / 'lora'}"), tmp_path / "again"
    )
    assert_same(again.nets["net"].variables["params"], merged.nets["net"].params)


def test_a_reset_rule_that_matches_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.init_from\.reset: 'net/params/hed' matches no parameter; .* net/"):
        train(smoke(TEXT, "init_from.reset=('net/params/hed',)"), tmp_path / "run")


@pytest.mark.slow
def test_cut_short_and_resumes_it_ends_alike(tmp_path):
    flags = (*MATRICES, "optim.net.ema=0.9", "optim.net.schedule=constant", "optim.net.end=None")
    train(quick(*flags, "total_steps=4"), tmp_path / "half")
    resumed = train(quick(*flags), tmp_path / "half")
    assert_same(resumed, train(quick(*flags), tmp_path / "whole"))


@pytest.mark.slow
def test_one_device_equals_eight():
    rule = ("optim.net.name=sgd", "optim.net.lr=1.0", "optim.net.clip=0.0", "optim.net.warmup=0")
    rule += ("optim.net.b2=None", "optim.net.end=None")
    after = []
    for devices in (1, 8):
        experiment = smoke(TEXT, *MATRICES, *rule, "optim.net.schedule=constant", f"mesh.fsdp={devices}")
        program = Program(experiment.model_copy(update={"sharding": ((".*", "fsdp"),)}))
        state, _ = program.step(program.init(), 0)
        after.append(jax.device_get(lora.split(state.nets["net"].params)[1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *after)


def test_check_says_how_much_trains():
    program = Program(smoke(TEXT, *MATRICES))
    updates = 2 * 2 * (16 + 48 + 16 + 16 + 16 + 64 + 64 + 16)  # [16, 48], [16, 16], [16, 64], [64, 16] a block
    assert f"\ntrained: {updates:,} (" in parameter_table(program)
    assert "\ntrained: 0 (0.00%)" in parameter_table(Program(smoke(TEXT, "optim.net.freeze=('.*',)")))


def test_a_target_that_is_no_matrix_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match=r"lora\.targets: expected matrices, got blocks/block_0/attention_norm/scale"):
        train(smoke(TEXT, MATRICES[0], "optim.net.lora.targets=('blocks/.*',)"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
