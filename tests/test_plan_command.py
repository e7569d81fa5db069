"""`gen-jax plan`: its sweeps, its refusals, weak scaling."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from planned import BATCH, experiment, needs_libtpu, plan  # noqa: F401

from gen_jax import cli
from gen_jax.errors import ConfigError
from gen_jax.models.transformer import FSDP, TENSOR_PARALLEL
from gen_jax.parallel import sharding
from gen_jax.plan import chips, planner, report, shapes

GPT = "experiments/transformer/gpt.py:smoke"


@pytest.mark.parametrize(
    ("rules", "meshes"),
    [
        (((".*", "replicate"),), {(1, 1)}),
        (FSDP, {(1, 1), (4, 1), (8, 1)}),
        (((".*/kernel", (None, "model")), (".*", "replicate")), {(1, 1), (1, 2), (1, 4), (1, 8)}),
        (TENSOR_PARALLEL, {(1, 1), (4, 1), (8, 1), (1, 2), (4, 2), (1, 4), (2, 4), (1, 8)}),
    ],
)
def test_a_sweep_tries_the_axes_that_the_rules_name(rules, meshes):
    """The whole slice is one choice of `fsdp`; no mesh twice."""
    tried = [*shapes.candidates(experiment(rules), chips.parse("v5e:2x4"))]
    assert all(np.prod([*mesh.values()]) == 8 for mesh, _ in tried)
    assert sorted((mesh["fsdp"], mesh["model"]) for mesh, _ in tried) == sorted([*meshes] * 2)
    assert {batch for _, batch in tried} == {BATCH, 2 * BATCH}


# seconds by (fsdp, model)
STEPS = {(1, 1): 0.1, (4, 1): 3.0, (8, 1): 2.0, (1, 2): 9.0, (4, 2): 1.0, (1, 4): 8.0, (2, 4): 5.0}


def test_a_sweep_ranks_what_fits(monkeypatch):
    where = chips.parse("v5e:2x4")
    tried = [*shapes.candidates(experiment(TENSOR_PARALLEL), where)]

    def make(name, sized, where):
        if sized.mesh.model == 8:
            raise planner.DoesNotFit("config: too large")
        used = 10**9 * (20 if sized.mesh.fsdp == 1 else 1)
        step = STEPS[sized.mesh.fsdp, sized.mesh.model] * (1 if sized.batch_size == BATCH else 1.5)
        return dataclasses.replace(
            PLAN, mesh=sized.mesh.model_dump(), batch_size=sized.batch_size, memory={"total": used}, compute=step
        )

    monkeypatch.setattr(planner, "make", make)
    seen = []
    plans = shapes.sweep("gpt", experiment(TENSOR_PARALLEL), where, lambda plans: seen.append(len(plans)))
    assert len(plans) == len([mesh for mesh, _ in tried if mesh["model"] < 8]) and seen == [*range(1, len(plans) + 1)]
    assert [plan.fits for plan in plans] == sorted([plan.fits for plan in plans], reverse=True)
    ranked = [((plan.mesh["fsdp"], plan.mesh["model"]), plan.batch_size // BATCH) for plan in plans if plan.fits]
    best = [((4, 2), 2), ((4, 2), 1), ((8, 1), 2), ((8, 1), 1), ((4, 1), 2)]  # 0.75, 1, 1.5, 2, 2.25 s for BATCH rows
    assert ranked[:5] == best
    assert report.table(plans, "gpt").count("!") == sum(not plan.fits for plan in plans)


PLAN = planner.Plan(
    config="gpt",
    topology="v5e:2x4",
    chips=8,
    mesh={},
    placement={},
    batch_size=0,
    parameters=0,
    memory={"total": 0},
    hbm=16 * 2**30,
    flops=1.0,
    model_flops=1.0,
    repeated=1.0,
    bytes=1.0,
    compute=1.0,
    exposed=0.1,
    mfu=0.5,
    collectives=[],
    warnings=[],
    notes=[],
    compile_seconds=1.0,
    cpu_seconds=1.0,
    versions={},
)


@pytest.mark.parametrize(
    ("text", "needs", "has"),
    [
        (
            "the total memory required for HLO temporaries (197.69G) exceeds available HBM (15.75G).",
            "197.69G",
            "15.75G",
        ),
        ("Ran out of memory in memory space hbm. Used 29.15G of 15.75G hbm.", "29.15G", "15.75G"),
        ("no numbers", "more", "16G"),
    ],
)
def test_too_little_memory_is_one_line(text, needs, has):
    """The limit is the compiler's, which keeps some of the chip's 16 GiB."""
    error = planner.does_not_fit(
        jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: E1000: {text}\nmore"), chips.parse("v5e:4x4")
    )
    line = f"config: the step does not fit v5e:4x4: it needs {needs} of a chip's memory, where {has} are free"
    assert str(error) == line and isinstance(error, planner.DoesNotFit)


def run(capsys, *flags):
    """The exit code and stderr of `gen-jax plan`."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", f"--config={GPT}", *flags])
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--topology=v7x:4x4",), "--topology: unknown chip 'v7x'; known: v4, v5e, v5p, v6e"),
        (("--topology=v5e:4x4,v5e:8x8", "--sweep"), "--sweep: expected one topology, got v5e:4x4,v5e:8x8"),
        (("--topology=v5e:2x2", "--out=nowhere/plan.json"), "--out: expected an existing directory, got nowhere"),
        (("--topology=v5e:2x2", "--config.parallel=pmap"), "config.parallel: expected jit for a plan, got pmap"),
        (("--topology=v5e:2x2", "--config.platform=gpu"), "config.platform: expected any or tpu for a plan, got gpu"),
        pytest.param(
            ("--topology=v5e:2x2", "--config.mesh.model=3"),
            "config.mesh: expected data x fsdp x model to fit 4 devices, got -1 x 1 x 3",
            marks=needs_libtpu,
        ),
        pytest.param(
            ("--topology=v5e:2x2", "--config.mesh.data=2"),
            "config.mesh: expected 4 devices, all of v5e:2x2, got 2",
            marks=needs_libtpu,
        ),
    ],
)
def test_wrong_input_is_one_line(capsys, flags, message):
    assert run(capsys, *flags) == (2, f"gen-jax: {message}\n")


def test_a_plan_is_not_overwritten(capsys, tmp_path):
    (tmp_path / "plan.json").write_text("kept")
    code, line = run(capsys, "--topology=v5e:2x2", f"--out={tmp_path / 'plan.json'}")
    assert code == 2 and "pass --overwrite" in line and (tmp_path / "plan.json").read_text() == "kept"


def test_plans_are_kept_where_the_next_does_not_fit(capsys, monkeypatch, tmp_path):
    def make(name, sized, where, say):
        if where.size == 16:
            raise planner.DoesNotFit("config: too large")
        return dataclasses.replace(PLAN, topology=where.name, mesh={"data": where.size})

    monkeypatch.setattr(planner, "make", make)
    out = tmp_path / "plan.json"
    code, line = run(capsys, "--topology=v5e:2x2,v5e:2x4,v5e:4x4", f"--out={out}")
    assert code == 2 and "too large" in line
    assert [plan["topology"] for plan in json.loads(out.read_text())] == ["v5e:2x2", "v5e:2x4"]


@needs_libtpu
@pytest.mark.slow
def test_weak_scaling_of_planned_chips(capsys, tmp_path):
    """The bytes of the all-reduce of data parallelism are those of the gradients on 4 chips and on 16."""
    out = tmp_path / "plan.json"
    cli.main(["plan", f"--config={GPT}", "--topology=v5e:2x2,v5e:4x4", f"--out={out}"])
    first, second = json.loads(out.read_text())
    assert (first["batch_size"], second["batch_size"]) == (4, 16)
    payloads = [sum(one["payload"] for one in plan["collectives"]) for plan in (first, second)]
    assert payloads[0] == pytest.approx(payloads[1], rel=0.01)
    assert (tmp_path / "weak_scaling.png").read_bytes()[1:4] == b"PNG"
    assert "v5e:4x4" in capsys.readouterr().out


def test_a_mesh_is_that_of_the_devices_that_are_given():
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:3])
    assert mesh.devices.size == 3
    with pytest.raises(ConfigError, match="to fit 3 devices"):
        sharding.make_mesh(sharding.MeshConfig(model=2), jax.devices()[:3])
