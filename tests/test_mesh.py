"""The mesh (data, fsdp, model): what its axes cut, which collectives a step needs, runs that move to another."""

import math
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from members import SMALLEST, smoke

from gen_jax.core import ops
from gen_jax.errors import ConfigError
from gen_jax.models.transformer import FSDP, TENSOR_PARALLEL
from gen_jax.parallel import sharding
from gen_jax.parallel.sharding import MeshConfig
from gen_jax.plan import gathers
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import validate
from gen_jax.training.program import Program

WHOLE = ((".*", "replicate"),)
CUBE = ("mesh.fsdp=2", "mesh.model=2")  # with 2 devices on `data`


def program(model, *flags, devices=1, rules=FSDP):
    experiment = smoke(SMALLEST[model], "steps_per_call=1", *flags, devices=devices)
    return Program(experiment.model_copy(update={"sharding": tuple(rules)}))


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (8, 1, 1)),
        (dict(model=2), (4, 1, 2)),
        (dict(data=1, fsdp=-1), (1, 8, 1)),
        (dict(fsdp=2, model=2), (2, 2, 2)),
    ],
)
def test_one_axis_takes_the_devices_that_are_left(sizes, shape):
    mesh = sharding.make_mesh(MeshConfig(**sizes))
    assert mesh.axis_names == ("data", "fsdp", "model") and mesh.devices.shape == shape


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(fsdp=-1), "config.mesh.fsdp: expected one axis of -1, got data and fsdp"),
        (dict(model=0), "config.mesh.model: expected a number of devices, or -1, got 0"),
        (dict(data=-2), "config.mesh.data: expected a number of devices, or -1, got -2"),
        (dict(fsbp=2), "config.mesh.fsbp: unknown key; did you mean fsdp?"),
        (dict(fsdp=3), "config.mesh: expected data x fsdp x model to fit 8 devices, got -1 x 3 x 1"),
        (dict(data=2, fsdp=4, model=2), "config.mesh: expected data x fsdp x model to fit 8 devices, got 2 x 4 x 2"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line(sizes, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        sharding.make_mesh(validate(MeshConfig, sizes, "config.mesh"))


@pytest.mark.parametrize(
    ("path", "shape", "rule", "spec"),
    [
        ("kernel", (6, 4), "fsdp", P("fsdp")),
        ("kernel", (6, 8), "fsdp", P(None, "fsdp")),
        ("bias", (3,), "fsdp", P()),
        ("kernel", (6, 4), ("fsdp", "model"), P("fsdp", "model")),
        ("kernel", (5, 4), ("fsdp", "model"), P(None, "model")),  # stored whole
        ("layers/kernel", (2, 6, 4), ("fsdp", "model"), P(None, "fsdp", "model")),
        ("layers/kernel", (2, 1, 1), "fsdp", P()),
    ],
)
def test_what_a_rule_cuts(path, shape, rule, spec):
    mesh = sharding.make_mesh(MeshConfig(fsdp=2, model=2))
    assert sharding.param_spec(path, shape, ((".*", rule),), mesh) == spec


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("modle",), "config.sharding: the rule for kernel names the axis 'modle'; did you mean model?"),
        ((None, "model"), "config.sharding: the rule (None, 'model') does not fit kernel (4, 3) on the mesh"),
        (("fsdp", "fsdp"), "config.sharding: the rule ('fsdp', 'fsdp') does not fit kernel"),
        ((None, None, "model"), "config.sharding: the rule (None, None, 'model') does not fit kernel"),
    ],
)
def test_a_rule_that_does_not_fit_is_one_line(rule, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        sharding.param_spec("kernel", (4, 3), ((".*", rule),), sharding.make_mesh(MeshConfig(fsdp=2, model=2)))


def test_rows_need_data_times_fsdp_and_pmap_has_no_parameters_to_cut():
    with pytest.raises(ConfigError, match=r"config\.batch_size: expected a multiple of 8, the mesh's data x fsdp"):
        program("vae", "batch_size=12", "mesh.fsdp=4", devices=2)
    with pytest.raises(ConfigError, match=r"config\.parallel: pmap does not shard parameters"):
        program("vae", "parallel=pmap", "mesh.fsdp=2", devices=2, rules=WHOLE)


def test_a_constraint_is_nothing_without_a_mesh_and_leaves_alone_what_it_cannot_cut():
    x = jax.numpy.zeros((4, 3))
    assert ops.constrain(x, ops.ROWS) is x
    for sizes, spec in ((dict(data=1), None), (dict(data=2, fsdp=2, model=2), P(ops.ROWS, None))):
        mesh = sharding.make_mesh(MeshConfig(**sizes))
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            jaxpr = jax.make_jaxpr(lambda x: ops.constrain(x, ops.ROWS, "model"))(x)
        specs = [equation.params["sharding"].spec for equation in jaxpr.eqns]
        assert [P(rows, None) for rows, *_ in specs] == ([] if spec is None else [spec])
        assert all(columns is P.UNCONSTRAINED for _, columns in specs)  # 3 columns, 2 devices


def test_each_device_stores_its_piece():
    cube = program("transformer", *CUBE, "model.heads=4", "model.scan_layers=True", devices=2, rules=TENSOR_PARALLEL)
    params = cube.shardings.nets["net"].params
    for path, leaf in jax.tree_util.tree_leaves_with_path(cube.shapes.nets["net"].params):
        placed = jax.tree_util.tree_leaves_with_path(params)
        held = math.prod(dict(placed)[path].shard_shape(leaf.shape))
        assert held == leaf.size // (4 if "kernel" in str(path) or "token" in str(path) else 2), path
    # a moment is cut as its parameter is
    kinds = [
        {leaf.sharding.spec for leaf in jax.tree.leaves(tree) if leaf.ndim > 1}
        for tree in (cube.abstract.nets["net"].params, cube.abstract.nets["net"].opt)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(("model", "convolves"), [("vqvae", True), ("transformer", False)])
def test_networks_that_convolve_alone_are_put_together_at_once(model, convolves):
    """Others would take the memory that fsdp saves."""
    built = program(model, "mesh.data=1", "mesh.fsdp=2", devices=2, rules=FSDP)
    with jax.sharding.use_abstract_mesh(built.mesh.abstract_mesh):
        jaxpr = jax.make_jaxpr(lambda state: sharding.gathered(state, built.shardings))(built.shapes)
    cut = [leaf for leaf in jax.tree.leaves(built.shardings.nets["net"].params) if "fsdp" in leaf.spec]
    assert len(jaxpr.eqns) == (len(cut) if convolves else 0) and cut


def collectives(built):
    """The kinds in the compiled step, and the shapes that all-gathers make, largest axis first."""
    text = built.compiled_step.lower(built.abstract, built.feeder.resident, built.feeder.rows(0)).compile().as_text()
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf"= (\S.*?) ({kinds})(?:-start)?\(", text)
    made = [shape for line, kind in found if kind == "all-gather" for shape in re.findall(r"\w\[([\d,]*)\]", line)]
    return {kind for _, kind in found}, {tuple(sorted(map(int, shape.split(",")), reverse=True)) for shape in made}


# no two of rows, tokens, width, heads, MLP and vocabulary are alike
SIZES = ("batch_size=16", "model.heads=4", "model.width=32", "model.mlp_width=72", "model.scan_layers=True")
SIZES += ("model.remat=full", "model.context=20", "data.context=20")


def surplus(built):
    """Collectives of other kinds, and what is gathered but no parameter and no score of the likeliest tokens."""
    kinds, found = collectives(built)
    tokens, rows = 20, 16 // (built.mesh.shape["data"] * built.mesh.shape["fsdp"])
    good = {tuple(sorted(shape, reverse=True)) for shape in gathers.pieces(built).values()}
    return kinds - {"all-gather", "all-reduce", "reduce-scatter"}, found - good - {(tokens, rows, 2)}


@pytest.mark.parametrize(
    ("mesh", "rules"),
    [(CUBE, TENSOR_PARALLEL), pytest.param(("mesh.fsdp=4",), FSDP, marks=pytest.mark.slow)],
    ids=["both", "fsdp"],
)
def test_a_step_gathers_no_activation_and_no_kernel_over_the_heads(mesh, rules):
    """Nor does the partitioner copy, permute or exchange what it cannot cut from one spec to the other."""
    assert surplus(program("transformer", *mesh, *SIZES, devices=2, rules=rules)) == (set(), set())


@pytest.mark.slow
def test_a_rule_that_forces_a_gather_is_seen():
    rules = ((".*/down/kernel", ("fsdp", "model")), *TENSOR_PARALLEL)
    assert any(map(len, surplus(program("transformer", *CUBE, *SIZES, devices=2, rules=rules))))


@pytest.mark.parametrize("model", ["vae", "lstm"])
def test_every_mesh_reads_the_same_rows(model):
    one, four, cube = program(model), program(model, devices=4), program(model, *CUBE, devices=2)
    for step in (0, 3):
        for a, b, c in zip(*(jax.tree.leaves(each.feeder.rows(step)) for each in (one, four, cube)), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


def run(built, state, steps):
    seen = []
    for step in steps:
        state, metrics = built.step(state, step)
        seen.append({name: float(m.total[0] / m.weight[0]) for name, m in jax.device_get(metrics).items()})
    return state, seen


@pytest.mark.parametrize("model", ["vae", pytest.param("lstm", marks=pytest.mark.slow)])
def test_a_run_resumes_on_another_mesh(model, tmp_path):
    """Three steps on one device and three on 2 x 2 are six on one: the same examples, noise, moments and carry."""
    one, four = program(model), program(model, "mesh.fsdp=2", devices=2)
    _, whole = run(one, one.init(), range(6))
    state, first = run(one, one.init(), range(3))
    with Checkpoints(tmp_path / "checkpoints", keep=1, hash_limit_mb=100) as checkpoints:
        checkpoints.save(3, state, {})
        checkpoints.wait()
        restored = checkpoints.restore(four.abstract)
    assert restored is not None
    _, second = run(four, restored[1], range(3, 6))
    for here, there in zip(whole, first + second, strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-6)


def test_the_mesh_of_a_run_may_change(tmp_path):
    folder = RunDir(tmp_path / "run")
    config = {"seed": 0, "mesh": {"data": -1, "model": 1}, "sharding": [[".*", "replicate"]]}
    folder.create(config)
    folder.metrics.write_text('{"step": 0}\n')
    assert folder.check(config | {"mesh": {"data": 1, "fsdp": -1, "model": 1}, "sharding": [[".*", "fsdp"]]})
    with pytest.raises(ConfigError, match="seed was 0, is now 1"):
        folder.check(config | {"seed": 1})
