"""Plans of small configs: memory, work and collectives against what the config says; rules that gather; the command."""

import dataclasses
import importlib.util
import json
import re

import jax
import numpy as np
import pytest
from members import SMALLEST, smoke

from gen_jax import cli, config
from gen_jax.errors import ConfigError
from gen_jax.models.transformer import FSDP, TENSOR_PARALLEL
from gen_jax.parallel import sharding
from gen_jax.plan import chips, collectives, gathers, hlo, planner, report, roofline, shapes
from gen_jax.training.program import Program

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'gen_jax[plan]'")
GPT = "experiments/transformer/gpt.py:smoke"
LAYERS, WIDTH, CONTEXT, VOCAB, BATCH = 3, 64, 20, 8192, 16


def experiment(rules=((".*", "replicate"),), **mesh):
    """A small GPT whose text is missing."""
    model = dict(vocab=VOCAB, context=CONTEXT, layers=LAYERS, heads=4, width=WIDTH, scan_layers=True)
    return config.resolve(
        dict(
            total_steps=8,
            batch_size=BATCH,
            eval_batch_size=BATCH,
            steps_per_call=2,
            data=dict(source="token_file", path="nowhere", context=CONTEXT),
            model_name="transformer",
            model=model | dict(bias=False),
            optim=dict(net=dict(name="adamw", weight_decay=0.1, clip=1.0, ema=0.99)),
            mesh=mesh,
            sharding=rules,
        )
    )


@pytest.fixture(scope="module")
def plan():
    return planner.make("gpt", experiment(), chips.parse("v5e:2x2"))


@needs_libtpu
def test_work_is_6_n_d_and_attention(plan):
    """Kaplan et al. 2020: 6 FLOPs a parameter and token; with 12 L T W for the attention, 12 L T W / 6 N more here."""
    tokens = BATCH * CONTEXT
    matrices = plan.parameters - CONTEXT * WIDTH - (2 * LAYERS + 1) * WIDTH  # without positions and norms
    attention = 12 * LAYERS * CONTEXT * WIDTH * tokens
    assert plan.flops * plan.chips == pytest.approx(6 * matrices * tokens + attention, rel=0.01)
    assert plan.flops * plan.chips == pytest.approx(6 * plan.parameters * tokens, rel=0.1)
    assert plan.model_flops == pytest.approx(plan.flops * plan.chips) and plan.repeated == pytest.approx(1)


@needs_libtpu
def test_memory_is_that_of_the_state_and_what_the_compiler_adds(plan):
    assert plan.memory["parameters"] == 4 * plan.parameters
    assert plan.memory["ema"] == 4 * plan.parameters + 4  # and how many updates it holds
    assert plan.memory["optimizer"] == 8 * plan.parameters + 2 * 4  # two moments, two counts
    assert plan.memory["batch"] == 2 * BATCH // plan.chips * (4 * (CONTEXT + 1) + 4 + 1)  # tokens, index, valid
    assert 0 <= plan.memory["outputs"] < 0.01 * plan.memory["parameters"]  # the new state lies where the old one did
    assert 0 <= plan.memory["other state and padding"] < 0.2 * plan.memory["parameters"]
    assert plan.fits and plan.hbm == int(15.75 * 2**30)


@needs_libtpu
def test_gradients_are_reduced_once_a_step_and_the_time_adds_up(plan):
    (reduced,) = (one for one in plan.collectives if one.kind == "all-reduce")
    assert reduced.axes == "data" and 4 * plan.parameters <= reduced.payload <= 4 * plan.parameters + 64
    assert reduced.sent == pytest.approx(2 * 3 / 4 * reduced.payload)
    assert plan.mfu == pytest.approx(plan.model_flops / (plan.step * 4 * 197e12))
    assert plan.compute >= max(plan.flops / 197e12, plan.bytes / 819e9)
    assert plan.placement == {"data": "2 on x, 2 on y", "fsdp": "1", "model": "1"}


@needs_libtpu
def test_missing_text_is_one_note_and_no_obstacle(plan):
    (note,) = plan.notes
    assert "config.data.path" in note and note.endswith("planned with rows of its shape") and "\n" not in note
    assert not any("gather" in line for line in plan.warnings)
    assert json.loads(json.dumps(plan.as_json()))["step"] == plan.step
    assert all(f"  {use}" in report.text(plan) for use in plan.memory)
    assert "not planned: evaluation, sampling, the first state" in report.text(plan)


WRONG = ((".*/(qkv|up)/kernel", ("model", None)), (".*/(out|down)/kernel", (None, "model")), (".*", "replicate"))


@needs_libtpu
@pytest.mark.parametrize(
    ("rules", "mesh", "seen"),
    [
        (WRONG, dict(data=2, model=2), True),
        pytest.param(TENSOR_PARALLEL, dict(data=1, fsdp=2, model=2), False, marks=pytest.mark.slow),
        pytest.param(FSDP, dict(data=1, fsdp=4), False, marks=pytest.mark.slow),
    ],
    ids=["wrong", "both", "fsdp"],
)
def test_a_rule_that_puts_activations_together_is_named(rules, mesh, seen):
    """The kernels of a pair are cut the wrong way round: what the first makes whole, the second needs in pieces."""
    made = planner.make("gpt", experiment(rules, **mesh), chips.parse("v5e:2x2"))
    found = [line for line in made.warnings if "activations are put together" in line]
    assert bool(found) == seen
    if seen:
        assert all(re.match(r"all-gather of \w+\[[\d,]+\] over model: no parameter is stored", line) for line in found)
    else:
        assert not any(re.match("all-|reduce-", line) for line in made.warnings)


KERNELS = """HloModule step

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %a = f32[8]{0} custom-call(%x), custom_call_target="AllocateBuffer"
  %b = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", metadata={op_name="flash"}
  ROOT %c = f32[8]{0} custom-call(%b), custom_call_target="tpu_custom_call"
}
"""


def test_kernels_whose_work_is_unknown_are_noted():
    (line,) = planner.kernels(hlo.parse(KERNELS))
    assert line == "custom calls, whose work is not known, count 0 FLOP: 2 x tpu_custom_call"
    assert planner.kernels(hlo.parse(KERNELS.replace("tpu_custom_call", "ConcatBitcast"))) == []


AXES = {"data": [[0, 4], [1, 5], [2, 6], [3, 7]], "fsdp": [[0, 2], [1, 3], [4, 6], [5, 7]]}
AXES |= {"model": [[0, 1], [2, 3], [4, 5], [6, 7]]}
UP = WIDTH, 4 * WIDTH
SUMS, TOGETHER, LOOP = "activations are summed", "activations are put together", 2 * LAYERS


@pytest.fixture(scope="module")
def cube():
    e = experiment(TENSOR_PARALLEL, data=2, fsdp=2, model=2)
    return Program(e, planner.stand_in(e))


@pytest.mark.parametrize(
    ("kind", "axis", "dims", "count", "line"),
    [
        ("all-gather", "fsdp", (1, WIDTH, 2 * WIDTH), LOOP, ""),  # one layer, half of its columns
        ("all-gather", "fsdp", (2, 3, 16, WIDTH), LOOP, ""),  # two heads' queries, keys and values
        ("all-gather", "fsdp", (VOCAB // 2, WIDTH), 2, ""),
        ("all-gather", "fsdp", (LAYERS, WIDTH, 2 * WIDTH), 2, "all layers of net/blocks/layers/mlp/up/kernel"),
        ("all-gather", "fsdp", (LAYERS, WIDTH, 2 * WIDTH), LOOP, TOGETHER),  # a batch of LAYERS rows
        ("all-gather", "fsdp", (LAYERS, 2 * WIDTH, WIDTH), 2, "all layers of net/blocks/layers/mlp/down/kernel"),
        ("all-gather", "fsdp", (VOCAB, WIDTH), 2, TOGETHER),  # over `model` it is not whole
        ("all-gather", "model", (1, *UP), LOOP, TOGETHER),
        ("all-gather", "data", (1, *UP), LOOP, TOGETHER),
        ("all-gather", "model", (BATCH // 4, CONTEXT, WIDTH), LOOP, TOGETHER),
        ("all-gather", "model", (BATCH // 4, CONTEXT, 2), 2, ""),  # scores of the likeliest tokens
        ("all-reduce", "model", (BATCH // 4, CONTEXT, WIDTH), LOOP, ""),  # a product of pieces
        ("all-reduce", "data", (LAYERS, *UP), 2, ""),  # gradients
        ("all-reduce", "data", (WIDTH // 2, 2 * WIDTH), LOOP, ""),
        ("reduce-scatter", "fsdp", (VOCAB // 2, WIDTH), 2, ""),
        ("all-reduce", "data", (BATCH, CONTEXT, WIDTH), LOOP, SUMS),
        ("all-reduce", "data", (BATCH, 2 * WIDTH), 2, ""),  # small gradients side by side
        ("all-to-all", "model", (BATCH // 4, CONTEXT, WIDTH), LOOP, "in other pieces"),
    ],
)
def test_what_is_put_together_whole(cube, kind, axis, dims, count, line):
    one = collectives.Collective(kind, (hlo.Array("bf16", dims),), np.asarray(AXES[axis]), "1", "somewhere")
    totals = roofline.Totals(collectives=[(one, 0.0, count)])
    found = gathers.warnings(totals, cube, dict(cube.mesh.shape))
    assert len(found) == bool(line) and all(line in one and f"over {axis}:" in one for one in found)


def test_axes_may_be_split_and_exchanged():
    assert gathers.splits((4, 3, 16, 64), (64, 192)) and gathers.splits((1, 64, 192), (64, 192))
    assert not gathers.splits((2, 96, 64), (64, 96)) and not gathers.splits((48, 256), (64, 192))


def test_bytes_a_chip_do_not_grow_with_the_devices():
    """Pure data parallelism on 1 to 8 devices: the gradients once, on a ring 2 (n - 1) / n of their bytes."""
    payloads = []
    for n in (1, 2, 8):
        e = smoke(SMALLEST["vae"], f"batch_size={4 * n}", "eval_batch_size=40", "steps_per_call=1", devices=n)
        program = Program(e, devices=jax.devices()[:n])
        text = program.compiled_step.lower(*planner.abstract_inputs(program)).compile().as_text()
        machine = roofline.Roofline(1.0, 1.0, lambda one: 0.0, n)
        found = planner.traffic(machine.run(hlo.parse(text)), dict(program.mesh.shape))
        payloads.append(sum(one.payload for one in found))
        assert sum(one.sent for one in found) == pytest.approx(2 * (n - 1) / n * payloads[-1])
        parameters = sum(4 * leaf.size for leaf in jax.tree.leaves(program.shapes.nets["net"].params))
    assert payloads[0] == 0 and payloads[1] == payloads[2]
    assert parameters <= payloads[-1] <= 1.01 * parameters


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
