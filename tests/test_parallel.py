"""One device equals eight, pmap equals jit where there is no noise, and a checkpoint moves between device counts."""

import re

import jax
import numpy as np
import pytest
from members import MEMBERS, SMALLEST, smoke, some_slow

from gen_jax.core.gradients import Terms
from gen_jax.core.state import Mean
from gen_jax.errors import ConfigError
from gen_jax.models.transformer import FSDP, TENSOR_PARALLEL
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.training.program import Program

WHOLE = ((".*", "replicate"),)


def program(path, *flags, devices=1, fsdp=1, model=1, rules=FSDP):
    """On a mesh of devices x fsdp x model."""
    experiment = smoke(path, "steps_per_call=1", f"mesh.fsdp={fsdp}", f"mesh.model={model}", *flags, devices=devices)
    return Program(experiment.model_copy(update={"sharding": rules}))


def losses(program, steps=10):
    state, seen = program.enter(program.init()), []
    for step in range(steps):
        state, metrics = program.step(state, step)
        seen.append({name: float(m.total[0] / m.weight[0]) for name, m in jax.device_get(metrics).items()})
    return seen, program.leave(state)


# fields that the devices can cut, and one critic update, so that the second does not amplify the rounding of the first
FIELDS = {
    "vqvae": ("model.widths=(8,)", "model.code_width=8"),
    "gan": ("model.n_critic=1",),
    "linear_ar": ("model.order=8",),
    "encoder_decoder": ("model.vocab=302", "model.end=300"),
}


def sgd(path, *flags, **kwargs):
    """A step of SGD moves the parameters by their gradient times a rate, small where a second network follows."""
    rate = 0.1 if "gan" in path else 1.0
    rule = ("name=sgd", f"lr={rate}", "schedule=constant", "warmup=0", "clip=0.0", "b1=None", "b2=None", "end=None")
    names = Program(smoke(path)).optimizers
    return program(path, *flags, *(f"optim.{name}.{field}" for name in names for field in rule), **kwargs)


# the others' are cut over `fsdp` alone
RULES = {"transformer": TENSOR_PARALLEL, "encoder_decoder": TENSOR_PARALLEL}
CUBE = dict(devices=2, fsdp=2, model=2)


@pytest.mark.parametrize("name", some_slow(MEMBERS, {"linear_ar", "transformer", "vae"}))
def test_one_device_equals_eight(name):
    path, flags, cube = MEMBERS[name], FIELDS.get(name, ()), CUBE | {"rules": RULES.get(name, FSDP)}
    one, eight = sgd(path, *flags), sgd(path, *flags, **cube)
    assert any("fsdp" in str(s.spec) for s in jax.tree.leaves(eight.shardings.nets))
    start = one.init()
    first = jax.tree.map(np.asarray, start.nets)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(eight.init().nets), strict=True):
        np.testing.assert_array_equal(a, b)
    (_, here), (_, there) = losses(one, 1), losses(eight, 1)
    for net in first:
        moved = [
            jax.tree.map(lambda new, old: np.asarray(new) - old, s.nets[net].params, first[net].params)
            for s in (here, there)
        ]
        scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(moved[0])) or 1.0
        for a, b in zip(*map(jax.tree.leaves, moved), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * scale)
    few, many = (losses(program(path, *flags, **mesh))[0] for mesh in ({}, cube))
    for a, b in zip(few, many, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


# fields that leave a model without noise, of those whose state does not mix rows
QUIET = {
    "vae": ("model.kind=ae", "model.likelihood=gaussian"),
    "lstm": ("data.order=windows",),  # streams carry on, and are refused
    "transformer": (),
    "pixel_transformer": ("model.dropout=0.0",),
    "encoder_decoder": ("model.dropout=0.0",),
    "wavenet": (),
    "linear_ar": (),
}


@pytest.mark.parametrize("name", some_slow(QUIET, {"linear_ar", "vae"}))
def test_pmap_equals_jit_where_there_is_no_noise(name):
    jit, _ = losses(program(SMALLEST[name], *QUIET[name], devices=8), steps=5)
    pmap, _ = losses(program(SMALLEST[name], *QUIET[name], "parallel=pmap", devices=8, rules=WHOLE), steps=5)
    for a, b in zip(jit, pmap, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_pmap_with_noise_equals_the_shards_written_out():
    """Each shard's key is the step's with its number folded in; totals and weights are added before the division."""
    pmapped = program(SMALLEST["vae"], "parallel=pmap", devices=8, rules=WHOLE)
    seen, _ = losses(pmapped, 1)
    plain = program(SMALLEST["vae"], devices=1)
    state = plain.init()
    batch = plain.feeder.feed.assemble(plain.feeder.feed.resident, plain.feeder.feed.rows(0))
    total = weight = 0.0
    for i in range(8):
        shard = jax.tree.map(lambda x, i=i: x[2 * i : 2 * i + 2], batch)
        rng = jax.random.fold_in(jax.random.fold_in(plain.train_key, i), 0)
        terms = plain.model.terms(state.nets["net"].variables, shard, rng, step=state.step, train=True)
        assert isinstance(terms, Terms) and isinstance(terms.means["loss"], Mean)
        total += float(terms.means["loss"].total.sum())
        weight += float(terms.means["loss"].weight.sum())
    assert seen[0]["loss"] == pytest.approx(total / weight, rel=1e-5)


@pytest.mark.parametrize(
    "path", [SMALLEST["vqvae"], SMALLEST["lstm"], SMALLEST["cyclegan"], "experiments/gan/digits_dcgan.py"]
)
def test_pmap_is_refused_where_state_mixes_rows(path):
    with pytest.raises(ConfigError, match=r"config\.parallel: pmap does not fit a model whose state mixes rows"):
        program(path, "parallel=pmap", devices=8, rules=WHOLE)


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"config\.batch_size: expected a multiple of 8"):
        program(SMALLEST["vae"], "batch_size=12", devices=8)
    with pytest.raises(
        ConfigError, match=r"config\.mesh: expected data x fsdp x model to fit 8 devices, got 16 x 1 x 1"
    ):
        program(SMALLEST["vae"], devices=16)


@pytest.mark.parametrize("devices", [4, 1])
def test_saved_on_eight_restored_on_fewer(tmp_path, devices):
    eight, fewer = (program(SMALLEST["vae"], fsdp=n) for n in (8, devices))
    _, state = losses(eight, 2)
    with Checkpoints(tmp_path / "checkpoints", keep=1, hash_limit_mb=100) as checkpoints:
        checkpoints.save(2, state, {})
        checkpoints.wait()
        _, restored, _ = checkpoints.restore(fewer.abstract)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(restored)} == {devices}
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), state, restored)


COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-(?:permute|broadcast)|reduce-scatter"


def test_the_step_of_a_data_parallel_model_only_reduces_gradients():
    """The compiled program of 8 replicated devices holds all-reduces and no gathers of parameters."""
    eight = program(SMALLEST["vae"], devices=8)
    text = eight.compiled_step.lower(eight.abstract, eight.feeder.resident, eight.feeder.rows(0)).compile().as_text()
    assert set(re.findall(COLLECTIVES, text)) == {"all-reduce"}


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        (SMALLEST["gan"], ("model.n_critic=2", "batch_size=32")),
        pytest.param(
            "experiments/gan/digits_dcgan.py", (), marks=pytest.mark.slow
        ),  # batch statistics have the shape of a bias
    ],
)
def test_the_step_of_a_gan_only_reduces_gradients(path, flags):
    """Each gradient, and sums of metrics: the rows of both networks are cut, also those made of noise alone."""
    eight = program(path, *flags, devices=8)
    text = eight.compiled_step.lower(eight.abstract, eight.feeder.resident, eight.feeder.rows(0)).compile().as_text()
    assert set(re.findall(COLLECTIVES, text)) == {"all-reduce"}
    lines = " ".join(re.findall(r"= (.*) all-reduce(?:-start)?\(", text))
    reduced = {tuple(sorted(map(int, filter(None, dims.split(","))))) for dims in re.findall(r"f32\[([\d,]*)\]", lines)}
    gradients = {tuple(sorted(x.shape)) for net in eight.shapes.nets.values() for x in jax.tree.leaves(net.params)}
    assert reduced <= gradients | {()} and {shape for shape in gradients if len(shape) > 1} <= reduced


@pytest.mark.slow
def test_the_devices_share_out_the_images_that_are_made_of_noise_alone():
    """Nothing else says how they lie: each device would make and judge all of them."""
    work = {}
    for n in (1, 8):
        built = program(SMALLEST["vaegan"], devices=n)
        lowered = built.compiled_step.lower(built.abstract, built.feeder.resident, built.feeder.rows(0))
        work[n] = lowered.compile().cost_analysis()["flops"]
    assert work[8] < 1.3 * work[1] / 8


@pytest.mark.slow
def test_batch_statistics_on_eight_devices_equal_those_on_one():
    one, eight = (program("experiments/gan/digits_dcgan.py", devices=n) for n in (1, 8))
    here, there = (losses(each, 1)[1].nets for each in (one, eight))
    for net in ("gen", "disc"):
        assert jax.tree.leaves(here[net].stats)
        for a, b in zip(*(jax.tree.leaves(nets[net].stats) for nets in (here, there)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_no_parameter_is_born_whole_on_one_device():
    eight = program(SMALLEST["vae"], fsdp=8)
    kernel = eight.init().nets["net"].params["encoder"]["MLP_0"]["Dense_0"]["kernel"]
    assert {s.data.size for s in kernel.addressable_shards} == {kernel.size // 8}
