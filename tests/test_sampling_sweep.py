"""The sweep of sampling: an evaluator at every combination of values, and its curves."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from evaluating import STATE, build
from members import smoke
from test_speed import Single

from gen_jax import evaluators
from gen_jax.errors import ConfigError
from gen_jax.training.program import Program

VECTORS = {"vector": np.array([[1, 3], [5, 7]], np.float32)}
SECTION = {"type": "sampling_sweep", "of": {"type": "series"}, "along": "temperature"}


@dataclasses.dataclass(frozen=True)
class Shifted:
    """Samples of the temperature, 10 higher where a class is asked for."""

    def sample(self, state, rng, n, options):
        return jnp.full((n, 2), options.temperature + (10.0 if options.label != "each" else 0.0))


def test_each_point_is_a_measurement_of_its_own_and_a_place_on_a_curve(figures):
    section = SECTION | {"over": {"temperature": [4.0, 0.5, 1.0], "label": ["each", 1]}, "shown": ["sample_mean"]}
    report = build(section, Shifted(), VECTORS)(STATE)
    alone = {"real_mean": 4, "real_std": np.sqrt(5)}
    means = {
        "sample_mean@sampling.temperature=4.0": 4,
        "sample_mean@sampling.label=1,sampling.temperature=4.0": 14,
        "sample_mean@sampling.temperature=0.5": 0.5,
        "sample_mean@sampling.label=1,sampling.temperature=0.5": 10.5,
        "sample_mean": 1,
        "sample_mean@sampling.label=1": 11,
    }
    spreads = {tag.replace("mean", "std"): 0 for tag in means}
    assert report.scalars == pytest.approx(alone | means | spreads)
    assert set(report.images) == {"sample_mean_by_temperature"}
    (axis,) = figures[-1].axes
    lines = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axis.lines}
    x = [0.5, 1.0, 4.0]
    assert lines == {"label=each": (x, x), "label=1": (x, [10.5, 11.0, 14.0])}
    assert (axis.get_xlabel(), axis.get_xscale(), axis.get_yscale()) == ("temperature", "linear", "log")


def test_the_axis_may_be_network_evaluations_or_words(figures):
    section = SECTION | {"over": {"temperature": [0.5, 20.0]}, "axis": "network_evaluations", "shown": ["sample_std"]}
    report = build(section, Single(), VECTORS)(STATE)
    assert report.scalars["network_evaluations@sampling.temperature=20.0"] == 1
    assert figures[-1].axes[0].get_xlabel() == "network evaluations a sample"
    section = SECTION | {"over": {"label": ["each", 1]}, "along": "label", "shown": ["sample_mean"]}
    build(section, Shifted(), VECTORS)(STATE)
    (line,) = figures[-1].axes[0].lines
    assert line.get_xdata().tolist() == ["each", "1"] and line.get_ydata().tolist() == [1, 11]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"along": "steps"}, "along: expected a field of over, temperature; got 'steps'"),
        ({"over": {"temperature": []}}, "over: expected 1 to 1000 combinations, got 0"),
        ({"of": {"type": "series", "split": "train"}}, "of.split: expected none, it is the sweep's own"),
        ({"of": {"type": "seris"}}, "of.type: .*'seris'; did you mean series"),
        ({"of": {"type": "mean"}}, "of.type: expected an evaluator that samples, mean does not"),
    ],
)
def test_a_wrong_section_is_one_line(section, message):
    with pytest.raises(ConfigError, match=message):
        evaluators.parse(SECTION | {"over": {"temperature": [1.0]}} | section)


def test_what_the_model_or_the_evaluator_does_not_know_is_refused():
    section = SECTION | {"over": {"temperature": [1.0]}, "shown": ["fid"]}
    with pytest.raises(ConfigError, match=r"shown: .*fid.*: expected real_mean, real_std, sample_mean"):
        build(section, Shifted(), VECTORS)(STATE)
    for field, message in (("stps", "stps=0: .*stps: unknown"), ("steps", "steps=0: .*steps: expected")):
        flags = [f"along={field}", f"over={{'{field}': (0,)}}", "of={'type': 'generation'}"]
        flags = [f"evals.sweep.{flag}" for flag in ("type=sampling_sweep", *flags)]
        with pytest.raises(ConfigError, match=f"sampling_sweep: over: {message}"):
            _ = Program(smoke("experiments/diffusion/digits.py", *flags)).evaluators
