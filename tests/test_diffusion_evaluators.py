"""What evaluators show of a diffusion: its steps, its loss over time, its noise, what it draws of half an image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluating import IMAGES, STATE, Linear, build, small_images
from test_diffusion import KEY, batch_of, exact

from gen_jax.errors import ConfigError
from gen_jax.evaluators import pictures
from gen_jax.models import diffusion
from gen_jax.models.abilities_base import HasTimedLoss, Inpaints, InvertsNoise, ShowsSteps
from gen_jax.runs import grids
from gen_jax.runs.grids import Labels


@dataclasses.dataclass(frozen=True)
class Timed:
    """The loss is the time, and 100 more for the last example."""

    def timed_loss(self, state, batch, t, rng):
        return t + 100.0 * (batch["index"] == 20)


def test_the_loss_is_averaged_over_the_split_in_each_bin(figures):
    report = build({"type": "loss_by_time", "bins": 4}, Timed(), {"image": small_images()}, **IMAGES)(STATE)
    assert list(report.scalars) == [f"loss_at@time={time}" for time in (0.125, 0.375, 0.625, 0.875)]
    lower = np.arange(4) / 4 + 100 / 21
    found = np.array([*report.scalars.values()])
    assert (found > lower).all() and (found < lower + 0.25).all() and len(np.unique(np.diff(found).round(6))) == 3
    (line,) = figures[-1].axes[0].lines
    assert line.get_xdata().tolist() == [0.125, 0.375, 0.625, 0.875] and line.get_ydata().tolist() == found.tolist()
    with pytest.raises(ConfigError, match="loss_by_time: expected a model with a loss at each time, which Linear has"):
        build({"type": "loss_by_time"}, Linear(), {}, **IMAGES)


def test_the_arc_keeps_the_length_of_noise_and_ends_where_it_should():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 50))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    path = pictures.arc(a, b, np.linspace(0, 1, 5))
    np.testing.assert_allclose(np.linalg.norm(path, axis=2), 1, atol=1e-6)
    np.testing.assert_allclose(path[:, 0], a, atol=1e-6)
    np.testing.assert_allclose(path[:, -1], b, atol=1e-6)
    steps = np.linalg.norm(np.diff(path, axis=1), axis=2)
    np.testing.assert_allclose(steps, steps[:, :1] * np.ones(4), rtol=1e-4)  # even
    np.testing.assert_allclose(pictures.arc(a, a, np.array([0.3]))[:, 0], a, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Inverts(Linear):
    """Noise is the pixels less 100, as it is."""

    noise_shape = (1, 3, 1)

    def encode_noise(self, state, batch):
        return batch["image"].astype(jnp.float32) - 100

    def decode_noise(self, state, noise, label=None):
        return jnp.round(noise + 100).clip(0, 255).astype(jnp.uint8)


def test_interpolation_between_noise_goes_along_the_arc():
    x = small_images()
    section = {"type": "pictures", "kinds": ["interpolation"], "rows": 2, "columns": 3}
    found = build(section, Inverts(), {"image": x}, **IMAGES)(STATE).images["interpolation"]
    noise = x[:4].reshape(4, 3).astype(np.float32) - 100
    path = pictures.arc(noise[0::2], noise[1::2], np.linspace(0, 1, 3, dtype=np.float32))
    made = np.round(path + 100).clip(0, 255).astype(np.uint8).reshape(2, 3, 1, 3, 1)
    shown = np.concatenate([x[0:4:2, None], made, x[1:4:2, None]], 1).reshape(-1, 1, 3, 1)
    labels = Labels("Interpolation between noise of test", columns=("data", "0", "0.5", "1", "data"))
    assert (found == grids.grid(shown, labels, 5)).all()


def test_a_diffusion_has_these_abilities():
    model, _ = exact()
    assert all(isinstance(model, ability) for ability in (ShowsSteps, HasTimedLoss, Inpaints, InvertsNoise))


def test_steps_show_noise_of_variance_one_and_end_at_the_estimate():
    model, state = exact()
    options = diffusion.Sampling(steps=4)
    carry = model.sample_init(state, KEY, 500, options)
    step = jax.jit(lambda carry, i: model.sample_step(state, carry, i, options))
    shown = [model.sample_shown(state, carry, jnp.int32(0), options)]
    for i in range(4):
        carry = step(carry, jnp.int32(i))
        shown.append(model.sample_shown(state, carry, jnp.int32(i + 1), options))
    ends = model.sample_finish(state, carry, options)
    assert all(np.abs(np.asarray(image, int) - ends).max() <= 1 for image in shown[-1].values())
    first = np.asarray(shown[0]["z"], float) / 127.5 - 1
    assert (shown[0]["x"] == 128).all() and np.mean(np.abs(first) < 0.99) == pytest.approx(0.68, abs=0.02)  # clipped


def test_the_loss_over_all_times_is_the_loss():
    model, state = exact()
    n, one = 3000, batch_of(1)
    many = {name: jnp.repeat(value, n, axis=0) for name, value in one.items()} | {"index": jnp.arange(n)}
    t = jax.random.permutation(KEY, (jnp.arange(n) + 0.5) / n)
    timed = np.asarray(jax.jit(model.timed_loss)(state, many, t, KEY))
    loss = np.asarray(jax.jit(model.eval_step)(state, many, KEY)["loss"].total)
    assert timed.mean() == pytest.approx(loss.mean(), abs=5 * loss.std() / np.sqrt(n))
    assert timed[t < 0.3].mean() > 1.5 * timed[(t > 0.3) & (t < 0.7)].mean()


def test_the_bits_of_the_terms_sum_to_those_of_the_bound():
    model, state = exact()
    arrays = {"image": np.asarray(batch_of(5)["image"]), "label": np.arange(5)}
    found = build({"type": "mean"}, model, arrays, kind="image", shape=(4, 4, 1))(state).scalars
    parts = [found[f"{name}_bits_per_dim"] for name in ("prior_kl", "rec", "diffusion")]
    assert sum(parts) == pytest.approx(found["bits_per_dim"], rel=1e-6) and parts[2] > 1
    assert found["diffusion_bits_per_dim"] == pytest.approx(found["diffusion"] / 16 / np.log(2))
    evaluate = build({"type": "mean"}, model, arrays, kind="image", shape=(4, 4, 1))
    means = jax.eval_shape(evaluate.trace, state, batch_of(4), KEY)
    assert set(found) == set(evaluate.names(means))


def test_inpainting_keeps_the_upper_half(monkeypatch):
    model, state = exact()
    drawn: list = []
    monkeypatch.setattr(
        grids, "pairs", lambda *sets, labels: drawn.append((sets, labels)) or np.zeros((1, 1, 1), np.uint8)
    )
    image = np.asarray(batch_of(6)["image"])
    section = {"type": "pictures", "kinds": ["inpainting"], "n": 5}
    section["sampling"] = {"steps": 3}
    build(section, model, {"image": image}, sampling=diffusion.Sampling, kind="image", shape=(4, 4, 1))(state)
    (((data, kept, made), labels),) = drawn
    assert labels == Labels("In-painting of test", rows=("data", "kept", "drawn"))
    assert (data == image[:5]).all() and (kept[:, :2] == image[:5, :2]).all() and (kept[:, 2:] == grids.GAP).all()
    assert (made[:, :2] == image[:5, :2]).all() and np.abs(made[:, 2:].astype(int) - image[:5, 2:]).mean() > 20
