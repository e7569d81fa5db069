"""Plans of small configs: memory, work and collectives against what the config says; rules that gather; the command."""

import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from members import SMALLEST, smoke
from planned import BATCH, CONTEXT, LAYERS, VOCAB, WIDTH, experiment, needs_libtpu, plan  # noqa: F401

from gen_jax.core.info import Info
from gen_jax.models.transformer import FSDP, TENSOR_PARALLEL
from gen_jax.plan import chips, collectives, gathers, hlo, planner, report, roofline
from gen_jax.training.program import Program


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


def test_a_first_stage_that_the_step_does_not_read_stays_in_memory():
    """The compiler counts no argument that it drops."""
    program = Program(smoke(SMALLEST["code_prior"]))
    inputs = planner.abstract_inputs(program)
    dropped = sum(leaf.size * 4 for leaf in jax.tree.leaves(inputs[0].nets["first_stage"].params))
    sizes = dict(output_size_in_bytes=0, alias_size_in_bytes=0, temp_size_in_bytes=0, generated_code_size_in_bytes=0)
    whole = planner.device_bytes(inputs)
    found = planner.memory(program, inputs, SimpleNamespace(argument_size_in_bytes=whole - dropped, **sizes))
    assert dropped > 0 and found["total"] == whole and found["other state and padding"] >= 0


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


def test_a_second_stage_is_planned_on_what_is_computed_from_images_that_are_not_here():
    e = smoke("experiments/diffusion/imagenet_dit_b4.py")
    program = Program(e, planner.stand_in(e))
    assert program.dataset.info == Info("image", (8, 8, 1), 10)
    batch = Program(e, planner.with_inputs(program)).first_batch_shapes
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items() if name not in ("index", "valid")} == {
        "image": ((16, 8, 8, 1), np.uint8),
        "label": ((16,), np.int32),
        "latents": ((16, 4, 4), np.uint16),
    }


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
