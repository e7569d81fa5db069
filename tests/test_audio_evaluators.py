"""Sound: what Markov models reach, evaluators, written files."""

import dataclasses
import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from members import SMALLEST, asks, smoke
from sounds import RATE, load, sound

from gen_jax import cli, evaluators
from gen_jax.core import ops
from gen_jax.core.state import Mean, State
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import Context
from gen_jax.metrics.markov import Markov, Sequences
from gen_jax.models import wavenet
from gen_jax.runs import plots
from gen_jax.runs.log import Writer
from gen_jax.train import train


def chain(n, length, seed):
    """Binary sequences whose next symbol depends on the last two: p(1 | a b) = P[a, b]."""
    p = np.array([[0.1, 0.8], [0.6, 0.3]])
    rng = np.random.default_rng(seed)
    codes = np.zeros((n, length + 2), np.uint8)
    for t in range(2, length + 2):
        codes[:, t] = rng.random(n) < p[codes[:, t - 2], codes[:, t - 1]]
    codes = codes[:, 2:]
    return Sequences(codes, np.ones(codes.shape, bool)), p


def test_markov_models_reach_the_entropy_of_a_known_chain():
    (train, p), (validation, _), (test, _) = (chain(200, 200, seed) for seed in range(3))
    model = Markov.fit(train, validation, order=3, vocab=2, start=0)
    padded = np.pad(test.codes, ((0, 0), (2, 0))).astype(np.int64)
    ones = p[padded[:, :-2], padded[:, 1:-1]]
    true = -np.log2(np.where(test.codes == 1, ones, 1 - ones)).mean()
    bits = [model.bits_per_code(test, order) for order in range(4)]
    assert bits[2] == pytest.approx(true, rel=2e-3)
    assert bits[3] == pytest.approx(true, rel=5e-3)
    assert bits[0] > bits[1] > 1.02 * bits[2]


def test_markov_probabilities_by_hand_and_their_sum():
    def rows(*codes):
        return Sequences(np.array(codes, np.uint8), np.ones((len(codes), len(codes[0])), bool))

    train, validation = rows([0, 1, 1, 2], [1, 1, 2, 0]), rows([1, 1, 2, 2])
    model = Markov.fit(train, validation, order=1, vocab=4, start=3)
    zero, one = model.weights
    seen = rows([1, 2])
    # code 1: 4 of 8; after 3 (the start): 0, 1 once each. code 2 after 1: 2 of 4
    first = zero[4] * 4 / 8 + (1 - zero[4]) / 4
    second = zero[4] * 2 / 8 + (1 - zero[4]) / 4
    expected = [one[2] * 1 / 2 + (1 - one[2]) * first, one[3] * 2 / 4 + (1 - one[3]) * second]
    np.testing.assert_allclose(model.probabilities(seen, 1), expected, rtol=1e-12)
    total = sum(model.probabilities(rows([1, code]), 1)[1] for code in range(4))
    assert total == pytest.approx(1, abs=1e-12)


def test_markov_weights_are_the_likeliest_and_padding_does_not_count():
    (train, _), (validation, _) = (chain(20, 30, seed) for seed in range(2))
    model = Markov.fit(train, validation, order=1, vocab=2, start=0)
    best = model.bits_per_code(validation, 1)
    for bucket in np.flatnonzero((model.weights[1] > 0.01) & (model.weights[1] < 0.99))[:3]:
        for step in (-0.01, 0.01):
            moved = model.weights[1].copy()
            moved[bucket] += step
            other = dataclasses.replace(model, weights=(model.weights[0], moved))
            assert other.bits_per_code(validation, 1) >= best - 1e-9
    rubbish = np.pad(train.codes, ((0, 0), (0, 5)), constant_values=1)
    padded = Sequences(rubbish, np.pad(train.counted, ((0, 0), (0, 5))))
    assert Markov.fit(padded, validation, 1, 2, 0).bits_per_code(padded, 1) == model.bits_per_code(train, 1)


@dataclasses.dataclass(frozen=True)
class Hum:
    """Samples that say which class they are of, and a loss of 1 nat a sample."""

    num_classes: int = 3

    def sample(self, state, rng, n, options):
        label = jnp.arange(n) % self.num_classes
        return jnp.tile((100 * (label + 1))[:, None], (1, options.length)).astype(jnp.int16)

    def eval_step(self, state, batch, rng):
        counts = batch["mask"].sum(axis=1)
        return {"loss": Mean(counts, counts).where(batch["valid"])}


def evaluator(**fields):
    """Over the tones, on every split."""
    dataset = load(source="tones", pitches=3, length=64, examples=100)

    def batches(split):
        feed = dataset.eval_feed(split, 8)
        for i in range(feed.num_batches):
            yield jax.tree.map(jnp.asarray, feed.assemble(feed.resident, feed.rows(i)))

    asked = asks(wavenet.Sampling, dataset.info)
    context = Context(Hum(), dataset.info, batches, 8, None, jax.random.key(0), **asked)
    return dataset, evaluators.build(evaluators.parse(fields), context)(State(jnp.zeros((), jnp.int32), {}))


def test_samples_stand_beside_real_sounds_a_row_a_class(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "spectrograms", lambda *a, **more: drawn.append((a, more)) or np.zeros((2, 2, 3), "u1"))
    dataset, report = evaluator(type="audio", columns=2)
    ((flat, rate, columns), more), test = drawn[0], dataset.arrays["test"]
    assert flat.shape == (12, 64) and columns == 4 and rate == RATE
    assert more == dict(
        title="Sounds of test beside samples",
        names=["real", "real", "sampled", "sampled"] + [""] * 8,
        rows=dataset.info.class_names,
    )
    shown = flat.reshape(3, 4, 64)
    for label in range(3):
        np.testing.assert_array_equal(shown[label, :2], test["audio"][test["label"] == label][[0, -1]])
        assert (shown[label, 2:] == 100 * (label + 1)).all()
    np.testing.assert_array_equal(report.audios["samples"][:, 0], [100, 100, 200, 200, 300, 300])
    assert report.sample_rate == RATE and report.images["spectrograms"].shape == (2, 2, 3)


def test_nats_become_bits_a_sample():
    _, report = evaluator(type="mean")
    assert report.scalars["bits_per_sample"] == pytest.approx(1 / math.log(2))


def test_the_markov_evaluator_counts_what_the_mask_counts():
    dataset, report = evaluator(type="markov", order=2)

    def sequences(split):
        arrays = dataset.arrays[split]
        return Sequences(np.asarray(ops.mu_law_encode(jnp.asarray(arrays["audio"]))), arrays["mask"] > 0)

    model = Markov.fit(sequences("train"), sequences("validation"), 2, 256, 128)
    found = [report.scalars[f"markov_{order}_bits_per_sample"] for order in (1, 2)]
    assert found == [model.bits_per_code(sequences("test"), order) for order in (1, 2)]
    assert report.scalars["markov_bits_per_sample"] == min(found)


def test_sound_evaluators_refuse_other_data():
    dataset = load(source="digits")
    context = Context(Hum(), dataset.info, lambda split: iter(()), 8, None, jax.random.key(0))
    for kind in ("audio", "markov"):
        with pytest.raises(ConfigError, match=rf"evals: {kind}: expected sound, the data are image"):
            evaluators.build(evaluators.parse(dict(type=kind)), context)


def test_a_spectrogram_shows_a_tone_where_it_is(figures):
    t = np.arange(4000) / RATE
    levels = plots.spectrogram(1000 * np.sin(2 * np.pi * 1000 * t) + 100 * np.sin(2 * np.pi * 3000 * t))
    assert levels.shape == (129, (4000 - 256) // 64 + 1)
    bins = (32, 96)  # 1 kHz and 3 kHz in steps of 31.25 Hz
    assert (levels.argmax(axis=0) == bins[0]).all() and levels.max() == 0
    np.testing.assert_allclose(levels[bins[1]], -20, atol=0.1)  # a tenth of the amplitude
    assert levels[64].max() < -60
    assert plots.spectrogram(np.zeros(10, np.int16)).shape == (129, 1)
    names = ["0", "1", "2", "3", "4"]
    shown = plots.spectrograms(np.zeros((5, 500), np.int16), RATE, 3, title="sounds", names=names, rows=("a", "b"))
    assert shown.dtype == np.uint8 and shown.shape[2] == 3
    (figure,), axes = figures, figures[0].axes
    assert figure.get_suptitle() == "sounds" and [axis.get_title() for axis in axes[:6]] == [*names, ""]
    assert [axis.get_ylabel() for axis in axes[:6]] == ["a", "", "", "b", "", ""]
    assert [bool(axis.images) and axis.axison for axis in axes[:6]] == [True] * 5 + [False]


def test_written_sounds_are_bit_exact(tmp_path):
    made = sound(50)[:, 0]
    with Writer(tmp_path) as writer:
        writer.write_audios(3, {"test/samples": np.stack([made, -made])[..., None] / 32767}, sample_rate=RATE)
    found, rate = soundfile.read(tmp_path / "samples/test_samples_00000003_1.wav", dtype="int16")
    assert rate == RATE
    np.testing.assert_array_equal(found, -made)


def test_sample_writes_wavs_arrays_and_a_picture(tmp_path, capsys, figures):
    experiment = smoke(SMALLEST["wavenet"], "model.depth=1").model_copy(
        update={"evals": {}, "total_steps": 2, "log_every": 2}
    )
    train(experiment.model_copy(update={"eval_every": 2, "save_every": 2}), tmp_path / "run")
    cli.main(["sample", f"--workdir={tmp_path / 'run'}", "--n=3", "--label=1", "--seed=5"])
    stem = tmp_path / "run/samples/sample_run_step2_seed5"
    out = capsys.readouterr().out
    assert f"{stem}_0.wav ... _2.wav" in out and f"{stem}.png" in out
    with np.load(f"{stem}.npz") as file:
        samples = file["samples"]
    assert samples.shape == (3, 64) and samples.dtype == np.int16
    figure = figures[-1]
    name = f", class {load(source='tones', pitches=4).info.class_names[1]}"
    assert figure.get_suptitle() == "Samples of run at step 2"
    assert [axis.get_title() for axis in figure.axes[:3]] == [f"{i}{name}" for i in range(3)]
    heard, rate = soundfile.read(io.BytesIO(stem.with_name(f"{stem.name}_2.wav").read_bytes()), dtype="int16")
    np.testing.assert_array_equal(heard, np.maximum(samples[2], -32767))
    assert rate == RATE
