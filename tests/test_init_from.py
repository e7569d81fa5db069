"""A part of a checkpoint, as another run's start."""

import dataclasses

import jax
import pytest
from saved import abstract_of, assert_equal, folder, make_state, opened, put  # noqa: F401

from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.runs.restore import load
from gen_jax.runs.run_dir import RunDir
from gen_jax.training.init_from import load_into


def test_a_part_is_loaded(folder):
    wanted = abstract_of(make_state())
    part = {"nets": {"net": {"opt": wanted.nets["net"].opt}}}  # tuples and named tuples inside
    _, tree, _ = load(folder, part, partial=True)
    assert_equal(tree["nets"]["net"]["opt"], make_state().nets["net"].opt)


@pytest.fixture
def other_run(tmp_path):
    run = RunDir(tmp_path / "other")
    run.create({"seed": 0, "num_seeds": 1})
    with opened(run.checkpoints) as checkpoints:
        checkpoints.save(4, make_state(4), {"best_step": 4})
    return run.path


def test_load_into_takes_the_averages_and_leaves_the_rest(other_run):
    new = put(make_state(0), 8)
    loaded = load_into(new, other_run, "best", {"net": "net"})
    average = make_state(4).nets["net"].ema
    net = loaded.nets["net"]
    assert_equal({"params": net.params, "stats": net.stats}, average)
    assert_equal(net.ema, average)
    assert_equal(net.opt, new.nets["net"].opt)
    assert int(loaded.step) == 0
    assert net.params["Dense_0"]["kernel"].sharding == new.nets["net"].params["Dense_0"]["kernel"].sharding
    jax.jit(lambda state: state, donate_argnums=0)(loaded)  # no buffer twice


def test_load_into_is_strict_but_for_what_is_allowed(other_run):
    new = make_state(0, width=32)
    with pytest.raises(CheckpointError, match=r"Dense_0/bias: the checkpoint has bfloat16\[16\], the model"):
        load_into(new, other_run)
    loaded = load_into(new, other_run, "4", {}, ("net/params/Dense_0/.*",)).nets["net"]
    assert_equal(loaded.params, new.nets["net"].params)
    assert_equal(loaded.stats, make_state(4).nets["net"].ema["stats"])
    with pytest.raises(ConfigError, match=r"expected some of \['net'\], found \['gen'\]"):
        load_into(new, other_run, nets={"gen": "net"})
    with pytest.raises(CheckpointError, match=r"nets/critic/.*the checkpoint has nothing"):
        load_into(new, other_run, nets={"net": "critic"})


@pytest.mark.parametrize(
    "kept, says",
    [({"num_seeds": 2}, "expected one run, .* holds 2 seeds: .*/many/seed_0"), ({}, "is no config: expected integers")],
)
def test_load_into_names_its_key(tmp_path, kept, says):
    RunDir(tmp_path / "many").create({"seed": 0, **kept})
    with pytest.raises(ConfigError, match=rf"^config\.init_from\.workdir: .*{says}"):
        load_into(make_state(0), tmp_path / "many")


def test_it_says_what_was_restored_what_is_new_and_what_was_left_out(other_run, capsys):
    load_into(make_state(0), other_run)
    every = len(jax.tree.leaves(make_state(4).nets["net"].ema))
    said = capsys.readouterr().err
    assert said.startswith("init_from: net: ") and "other at step 4" in said
    restored = int(said.split()[2])
    assert 2 < restored <= every and "new" not in said and "left out" not in said
    state = make_state(0)
    two = dataclasses.replace(state, nets={**state.nets, "new": state.nets["net"]})
    load_into(two, other_run, nets={"net": "net"})
    said = capsys.readouterr().err
    assert "init_from: new: 0 leaves restored from " in said and "; new: all of it" in said
    load_into(make_state(0), other_run, reset=("net/params/Dense_0/kernel",))
    said = capsys.readouterr().err.strip()
    assert f"net: {restored - 1} leaves restored" in said
    assert said.endswith("; new: params/Dense_0/kernel; left out: params/Dense_0/kernel")


def test_load_into_leaves_what_is_reset(other_run):
    """A leaf of the same shape, and one of another."""
    for width in (16, 32):
        new = make_state(0, width=width)
        loaded = load_into(new, other_run, reset=("net/params/Dense_0/(kernel|bias)",)).nets["net"]
        assert_equal(loaded.params, new.nets["net"].params)
        assert_equal(loaded.ema["params"], new.nets["net"].params)
        assert_equal(loaded.stats, make_state(4).nets["net"].ema["stats"])
    with pytest.raises(
        CheckpointError, match=r"kernel: the checkpoint has float32\[8, 16\], the model float32\[8, 32\]"
    ):
        load_into(make_state(0, width=32), other_run, reset=("net/params/Dense_0/bias",))
