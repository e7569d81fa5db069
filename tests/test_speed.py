"""Network evaluations of a sample, counted while it is drawn, and the timing of samples."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from evaluating import IMAGES, STATE, build, small_images
from members import SMALLEST, smoke
from test_diffusion import Exact
from test_diffusion import build as diffusion_of

from gen_jax.core.network_calls import counted
from gen_jax.core.state import Net, State
from gen_jax.errors import ConfigError
from gen_jax.evaluators import evaluator, speed
from gen_jax.models import diffusion
from gen_jax.runs.log import Writer
from gen_jax.training.program import Program
from gen_jax.training.report import write_report

KEY = jax.random.key(0)


class Doubled(nn.Module):
    def setup(self):
        self.part = nn.Dense(2, kernel_init=nn.initializers.constant(1.0))

    def __call__(self, x):
        return self.part(x) + self.twice(x)

    def twice(self, x):
        return 2 * self.part(x)


class Sums(nn.Module):
    def __call__(self, x):
        return x.sum(1)


def calls(fn, *args):
    with counted() as count:
        jax.block_until_ready(jax.jit(fn)(*args))
    return count.rows


def test_a_call_on_rows_counts_them_once_whatever_it_calls_itself():
    network = Doubled()
    variables, x = network.init(KEY, jnp.ones((1, 2))), jnp.ones((3, 2))
    assert calls(network.apply, variables, x) == 3
    assert calls(lambda x: network.apply(variables, x, method="twice"), x) == 3
    assert calls(Sums().apply, {}, x) == 3 and calls(Sums().apply, {}, x[:, :0]) == 0
    assert calls(lambda x: x + 1, x) == 0


def test_loops_count_their_turns_and_conditions_the_branch_taken():
    network = Doubled()
    variables, x = network.init(KEY, jnp.ones((1, 2))), jnp.ones((1, 2))

    def loop(end):
        return jax.lax.while_loop(lambda c: c[0] < end, lambda c: (c[0] + 1, network.apply(variables, c[1])), (0, x))

    assert calls(loop, 5) == 5 and calls(loop, 0) == 0
    assert calls(lambda: jax.lax.scan(lambda c, _: (network.apply(variables, c), None), x, None, 4)) == 4
    branch = lambda go: jax.lax.cond(go, lambda: network.apply(variables, x), lambda: x)  # noqa: E731
    assert (calls(branch, True), calls(branch, False)) == (1, 0)


def test_nothing_is_counted_outside_and_sharded_rows_count_once():
    network = Doubled()
    variables = network.init(KEY, jnp.ones((1, 2)))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(jnp.ones((16, 2)), jax.NamedSharding(mesh, jax.P("data")))
    with counted() as count:
        pass
    network.apply(variables, rows)
    assert count.rows == 0
    assert calls(network.apply, variables, rows) == 16


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 4),
        ({"solver": "heun"}, 8),
        ({"guidance": 2.0}, 8),
        ({"guidance": 2.0, "solver": "heun"}, 16),
        ({"guidance": 2.0, "label": 1, "guided_to": -1e6}, 8),
    ],
)
def test_a_diffusion_counts_its_solver_and_its_guidance(options, expected):
    model = diffusion_of(num_classes=3, class_dropout=0.1)
    model = dataclasses.replace(model, network=Exact(model.schedule))
    state = State(jnp.int32(0), {"net": Net({}, (), {}, None)})
    context = evaluator.Context(model, None, lambda split: iter(()), 4, None, KEY)
    assert speed.network_evaluations(context, diffusion.Sampling(steps=4, **options), state) == expected


EXPECTED = {"vae": 1, "gan": 1, "pixel_transformer": 64, "vaegan": 1, "diffusion": 3, "linear_ar": None}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_network_evaluations_of_each_family(name):
    program = Program(smoke(SMALLEST[name]))
    options = program.prepared(program.experiment.sampling)
    found = speed.network_evaluations(program.context, options, program.init())
    assert found == (EXPECTED[name] or program.model.burn_in + program.model.data_dim)


@dataclasses.dataclass(frozen=True)
class Single:
    """A network of one call."""

    def sample(self, state, rng, n, options):
        z = options.temperature * jnp.ones((n, 2))
        return Doubled().apply({"params": {"part": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}}, z)


def test_speed_is_a_timing_and_evaluations_a_metric(tmp_path, capsys):
    section = {"type": "speed", "n": 4, "sampling": {"temperature": 0.5}}
    report = build(section, Single(), {"image": small_images()}, **IMAGES)(STATE)
    assert report.scalars == {"network_evaluations@sampling.temperature=0.5": 1}
    ((tag, rate),) = report.timings.items()
    assert tag == "samples_per_s@batch=4,devices=8 x cpu,sampling.temperature=0.5" and rate > 0
    cfg = evaluator.EvalConfig(type="speed")
    with Writer(tmp_path, None, ()) as writer:
        assert write_report(writer, 3, cfg, report, print).keys() == {f"test/{name}" for name in report.scalars}
        writer.end_step(3)
    assert json.loads((tmp_path / "perf.jsonl").read_text()) == {"step": 3, f"test/{tag}": rate}
    assert tag not in (tmp_path / "metrics.jsonl").read_text() and "samples_per_s" in capsys.readouterr().out


def test_what_does_not_sample_has_no_speed():
    with pytest.raises(ConfigError, match="speed: expected a model that samples, not object"):
        build({"type": "speed"}, object(), {}, **IMAGES)
