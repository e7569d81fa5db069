"""What the evaluators pictures and series draw."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluating import IMAGES, STATE, TRAVERSALS, Codes, Linear, Off, Ring, Told, build, small_images

from gen_jax.core import ops
from gen_jax.errors import ConfigError
from gen_jax.runs import grids
from gen_jax.runs.grids import Labels


def test_pictures_of_all_that_the_model_can_do():
    arrays = {"image": small_images(), "label": np.arange(21, dtype=np.int32) % 2}
    evaluate = build({"type": "pictures"}, Linear(), arrays, **IMAGES)
    found = evaluate(STATE).images
    assert set(found) == {"reconstruction", "samples", "interpolation", "traversal", "scatter"}
    for name, again in evaluate(STATE).images.items():
        assert found[name].dtype == np.uint8 and (found[name] == again).all(), name
    labels = Labels("Reconstructions of test", ("data", "reconstruction"))
    expected = grids.pairs(arrays["image"], arrays["image"], labels=labels)
    assert (found["reconstruction"] == expected).all()


def test_interpolation_goes_straight_from_one_example_to_the_other():
    x = small_images()
    section = {"type": "pictures", "kinds": ["interpolation"], "rows": 3, "columns": 3}
    found = build(section, Linear(), {"image": x}, **IMAGES)(STATE).images["interpolation"]
    rows = []
    for a, b in zip(x[0:6:2].astype(float), x[1:6:2].astype(float), strict=True):
        rows += [a, a, np.round((a + b) / 2), b, b]
    labels = Labels("Interpolation between latents of test", columns=("data", "0", "0.5", "1", "data"))
    assert (found == grids.grid(np.stack(rows).astype(np.uint8), labels, 5)).all()


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise of two numbers to a grey pixel each, and the class to a third."""

    noise_shape = (2,)
    num_classes: int = 0

    def decode_noise(self, state, noise, label=None):
        last = jnp.zeros(len(noise)) if label is None else label
        pixels = jnp.concatenate([100 + 20 * noise, last[:, None]], axis=1)
        return jnp.round(pixels).clip(0, 255).astype(jnp.uint8).reshape(-1, 1, 3, 1)


@pytest.mark.parametrize("num_classes", [0, 2])
def test_interpolation_of_a_model_that_encodes_nothing_is_between_noise_that_is_drawn(num_classes):
    section = {"type": "pictures", "kinds": ["interpolation"], "rows": 3, "columns": 4}
    names = tuple("ab"[:num_classes])
    data = {"image": small_images(), "label": np.zeros(21, np.int32)}
    evaluate = build(section, Noise(num_classes), data, class_names=names, **IMAGES)
    found = evaluate(STATE).images["interpolation"]
    ends = np.asarray(ops.normal(jax.random.key(7), (6, 2)))
    rows = []
    for i, (a, b) in enumerate(zip(ends[0::2], ends[1::2], strict=True)):
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for t in np.arange(4) / 3:
            z = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
            rows.append([*np.round(100 + 20 * z), i % num_classes if num_classes else 0])
    classes = ("class a", "class b", "class a") if num_classes else ()
    labels = Labels("Interpolation between noise", classes, ("0", "0.33", "0.67", "1"))
    expected = grids.grid(np.array(rows).reshape(-1, 1, 3, 1).astype(np.uint8), labels, 4)
    assert (found == expected).all() and (evaluate(STATE).images["interpolation"] == found).all()


def test_traversal_moves_the_latents_that_vary_most():
    x = np.full((9, 1, 3, 1), 100, np.uint8)
    x[:, 0, 2, 0] += np.arange(9, dtype=np.uint8)
    x[:, 0, 0, 0] += np.arange(9, dtype=np.uint8) // 4
    section = {"type": "pictures", "kinds": ["traversal"], "rows": 2, "columns": 3}
    found = build(section, Linear((1 / 25,) * 3), {"image": x}, **IMAGES)(STATE).images["traversal"]
    start = x.reshape(-1, 3).astype(float).mean(0)
    rows = np.tile(start, (6, 1))
    rows[:3, 2] = rows[3:, 0] = [0, 0, 75]
    labels = Labels(f"{TRAVERSALS} their mean", ("latent 2", "latent 0"), ("-3", "0", "3"))
    expected = grids.grid(np.round(rows).astype(np.uint8).reshape(-1, 1, 3, 1), labels, 3)
    assert (found == expected).all()


def test_samples_take_the_options():
    section = {"type": "pictures", "kinds": ["samples"], "n": 4, "sampling": {"temperature": 1e-6}}
    found = build(section, Linear(), {"image": small_images()}, **IMAGES)(STATE).images["samples"]
    assert (found == grids.grid(np.zeros((4, 1, 3, 1), np.uint8), Labels("Samples"))).all()


def test_samples_of_a_conditional_model_have_a_column_a_class(written):
    section = {"type": "pictures", "kinds": ["samples"], "n": 8, "sampling": {"label": "each"}}
    for label, title in (("each", "Samples, one class per column"), (1, "Samples of class b")):
        section["sampling"]["label"] = label
        build(section, Told(), {"image": small_images()}, class_names=("a", "b"), **IMAGES)(STATE)
        assert title in written


def test_series_stand_beside_samples(figures):
    @dataclasses.dataclass(frozen=True)
    class Counts:
        def sample(self, state, rng, n, options):
            return jnp.broadcast_to(jnp.arange(3.0), (n, 3))

    report = build({"type": "series", "n": 2}, Counts(), {"vector": np.ones((5, 3), np.float32)}, shape=(3,))(STATE)
    assert report.scalars == {
        "real_mean": 1,
        "real_std": 0,
        "sample_mean": 1,
        "sample_std": pytest.approx((2 / 3) ** 0.5),
    }
    (figure,) = figures
    assert figure.get_suptitle() == "Series of test and samples"
    assert [axis.get_title("left") for axis in figure.axes] == ["real", "sample"]
    assert [line.get_ydata().tolist() for axis in figure.axes for line in axis.lines] == [[1, 1, 1]] * 2 + [
        [0, 1, 2]
    ] * 2


def test_pictures_of_vectors_are_scatter_plots(figures):
    found = build({"type": "pictures"}, Ring(8), {"vector": np.zeros((9, 2), np.float32)})(STATE).images
    assert set(found) == {"samples"} and found["samples"].shape[2] == 3
    assert figures[0].axes[0].get_title() == "Samples over data of test"


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("reconstruction", Ring(8)),
        ("samples", Off()),
        ("interpolation", Codes()),
        ("traversal", Off()),
        ("scatter", Codes()),
    ],
)
def test_pictures_that_the_model_cannot_give_are_refused(kind, model):
    with pytest.raises(ConfigError, match=f"pictures: kinds: {kind}: expected a model that"):
        build({"type": "pictures", "kinds": [kind]}, model, {}, **IMAGES)
    with pytest.raises(ConfigError, match="expected images"):
        build({"type": "pictures", "kinds": ["traversal"]}, Linear(), {}, kind="tokens")
