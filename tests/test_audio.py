"""Sound: wav folders and archives, tones, Markov models, spectrograms, what is written for people to listen to."""

import dataclasses
import io
import math
import tarfile
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from members import SMALLEST, smoke

from gen_jax import cli, data, evaluators
from gen_jax.core import ops
from gen_jax.core.state import Mean, State
from gen_jax.data import tools
from gen_jax.errors import ConfigError, DataError
from gen_jax.evaluators.evaluator import Context
from gen_jax.metrics.markov import Markov, Sequences
from gen_jax.runs import plots
from gen_jax.runs.log import Writer
from gen_jax.train import train

RATE = 8000


def load(**section):
    return data.load(data.parse(section), seed=0)


def sound(length, seed=0, channels=1):
    return np.random.default_rng(seed).integers(-9000, 9000, (length, channels)).astype(np.int16)


@pytest.fixture
def folder(tmp_path):
    """10 recordings of 0 and 1 by two speakers, in sub-folders by speaker."""
    for i in range(10):
        path = tmp_path / "wavs" / f"speaker{i % 2}" / f"{i // 5}_s{i % 2}_{i % 5}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound(20 + 3 * i, seed=i), RATE, subtype="PCM_16")
    return tmp_path / "wavs"


def section(folder, **fields):
    return dict(source="wav_folder", path=str(folder), length=32, validation=0.25) | fields


def rows_of(dataset):
    return {sound.tobytes() for arrays in dataset.arrays.values() for sound in arrays["audio"]}


def test_wavs_are_cut_padded_and_labelled(folder):
    dataset = load(**section(folder, label=r"^(\d)_", test_pattern=r"_0\.wav$", sample_rate=RATE))
    assert dataset.info == data.Info("audio", (32,), 2, ("0", "1"), sample_rate=RATE)
    assert dataset.sizes == {"train": 6, "validation": 2, "test": 2}
    test = dataset.arrays["test"]  # files 0 and 5, of 20 and 35 samples
    np.testing.assert_array_equal(test["label"], [0, 1])
    np.testing.assert_array_equal(test["mask"].sum(axis=1), [20, 32])
    for row, i in enumerate((0, 5)):
        np.testing.assert_array_equal(test["audio"][row, : 20 + 3 * i], sound(20 + 3 * i, seed=i)[:32, 0])
    assert (test["audio"][0, 20:] == 0).all()
    feed = dataset.train_feed(3)
    batch = jax.jit(feed.assemble)(feed.resident, feed.rows(0))
    assert batch["audio"].dtype == jnp.int16 and batch["mask"].dtype == jnp.float32
    assert batch["label"].dtype == jnp.int32
    assert len(rows_of(dataset)) == 10


def test_a_link_to_nowhere_is_no_file(folder):
    (folder / "lost.wav").symlink_to("/nowhere.wav")
    assert sum(load(**section(folder)).sizes.values()) == 10


def test_classes_are_folders_where_no_regex_is_given(folder):
    assert load(**section(folder)).info.class_names == ("speaker0", "speaker1")
    alone = load(**section(folder / "speaker0"))
    assert alone.info.num_classes == 0 and "label" not in alone.arrays["train"]
    assert alone.info.sample_rate == RATE  # that of the files


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar", ".zip"])
def test_an_archive_is_read_as_the_folder_in_it(folder, tmp_path, suffix):
    archive = tmp_path / f"all{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as out:
            for file in folder.rglob("*.wav"):
                out.write(file, f"top/{file.relative_to(folder)}")
    else:
        with tarfile.open(archive, "w:gz" if suffix == ".tar.gz" else "w") as out:
            out.add(folder, "top")
    there, here = (load(**section(path, label=r"^(\d)_")) for path in (archive, folder))
    assert there.info == here.info and there.sizes == here.sizes
    for split in here.sizes:
        for name, array in here.arrays[split].items():
            np.testing.assert_array_equal(there.arrays[split][name], array)


def test_channels_are_averaged(tmp_path):
    both = np.stack([np.full(40, 100), np.full(40, 301)], axis=1).astype(np.int16)
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", both, RATE, subtype="PCM_16")
    assert (load(**section(tmp_path)).arrays["train"]["audio"] == 200).all()


def test_float_sound_beyond_its_scale_is_clipped_and_said(tmp_path, capsys):
    values = np.array([0, 0.25, -0.25, 1, -1, 1.5, -2, 1 / 32768], np.float32)
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", values if i == 2 else values[:3], RATE, subtype="FLOAT")
    dataset = load(**section(tmp_path, length=8, validation=0, test=0))
    expected = [0, 8192, -8192, 32767, -32768, 32767, -32768, 1]
    np.testing.assert_array_equal(dataset.arrays["train"]["audio"][2], expected)
    np.testing.assert_array_equal(dataset.arrays["train"]["audio"][0], [0, 8192, -8192, 0, 0, 0, 0, 0])
    assert capsys.readouterr().err == (
        f"data: {tmp_path}: 4 sounds\ndata: 1 sounds exceed -1 .. 1 and are clipped, such as {tmp_path}/2.wav\n"
    )


@pytest.mark.parametrize(("length", "said"), [(4, "10.0%"), (19, "47.5%"), (20, ""), (40, "")])
def test_a_length_that_leaves_out_most_of_the_sound_is_said(tmp_path, capsys, length, said):
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", sound(40, seed=i), RATE)
    load(**section(tmp_path, length=length))
    line = f"data: {said} of the samples are read: sounds have 40 on average, data.length is {length}\n"
    assert capsys.readouterr().err == f"data: {tmp_path}: 4 sounds\n" + (line if said else "")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_that_is_no_number_is_named_by_its_file(tmp_path, bad):
    for name in ("a.wav", "b.wav"):
        values = np.zeros(9, np.float32)
        values[3] = bad if name == "b.wav" else 0
        soundfile.write(tmp_path / name, values, RATE, subtype="FLOAT")
    with pytest.raises(DataError) as caught:
        load(**section(tmp_path))
    assert str(caught.value) == f"{tmp_path}/b.wav: expected finite samples, found NaN or infinity"


def test_a_wav_whose_header_lies_is_read_no_further_than_it_goes(tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(40), RATE)
    whole = (tmp_path / "a.wav").read_bytes()
    for place, lie in ((40, 2**32 - 1), (40, 2**31), (4, 2**32 - 1), (4, 0)):  # bytes of the samples, of the file
        (tmp_path / "a.wav").write_bytes(whole[:place] + lie.to_bytes(4, "little") + whole[place + 4 :])
        audio = load(**section(tmp_path, length=50, validation=0, test=0)).arrays["train"]
        np.testing.assert_array_equal(audio["audio"][0, :40], sound(40)[:, 0])
        assert audio["mask"].sum() == 40
    for place, lie, size in ((22, 0, 2), (22, 65535, 2), (24, 0, 4), (34, 0, 2)):  # channels, rate, bits
        (tmp_path / "a.wav").write_bytes(whole[:place] + lie.to_bytes(size, "little") + whole[place + size :])
        with pytest.raises(DataError, match=r"a\.wav: cannot be read as sound: ") as caught:
            load(**section(tmp_path))
        assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_file_is_said(folder, tmp_path):
    with pytest.raises(DataError, match=r"0_s0_0\.wav: expected 16000 Hz \(config\.data\.sample_rate\), found 8000"):
        load(**section(folder, sample_rate=16_000))
    soundfile.write(folder / "z.wav", sound(9), 4000)
    with pytest.raises(DataError, match=r"z\.wav: expected 8000 Hz .* found 4000; resample it"):
        load(**section(folder))
    (folder / "z.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"z\.wav: cannot be read as sound"):
        load(**section(folder))
    (folder / "z.wav").unlink()
    for fields, message in (
        (dict(label=r"^(x)"), r"config\.data\.label: '\^\(x\)' finds nothing in speaker0/0_s0_0\.wav"),
        (dict(label=r"^(1)?"), r"config\.data\.label: .* finds nothing in speaker0/0_s0_0\.wav"),
        (dict(test_pattern="x"), r"config\.data\.test_pattern: 'x' finds no file"),
        (dict(test_pattern="s"), r"the patterns leave no file to train on"),
        (dict(path=str(tmp_path / "none")), r"there is no folder or archive"),
    ):
        with pytest.raises(DataError, match=message):
            load(**section(folder) | fields)
    with pytest.raises(ConfigError, match=r"label: expected a regular expression with one group"):
        load(**section(folder, label="a"))


def test_data_show_finds_sound(folder, tmp_path):
    assert tools.resolve(str(folder))["source"] == "wav_folder"
    assert tools.resolve("tones") == {"source": "tones"}
    archive = tmp_path / "a.zip"
    archive.touch()
    assert tools.resolve(str(archive))["source"] == "wav_folder"
    dataset, text = tools.look({"source": "tones"})
    assert dataset.info.kind == "audio" and len(text.splitlines()) == 8 and " Hz: 0." in text


def test_the_spoken_digits_have_their_official_test_split(shared_data):
    path = shared_data / "tfds_manual" / "free-spoken-digit-dataset-1.0.9.tar.gz"
    fields = dict(label=r"^(\d)_", test_pattern=r"_[0-4]\.wav$", length=4096, sample_rate=8000)
    dataset = load(source="wav_folder", path=str(path), **fields)
    assert dataset.sizes == {"train": 2025, "validation": 225, "test": 250}
    np.testing.assert_array_equal(np.bincount(dataset.arrays["test"]["label"]), [25] * 10)


def test_a_tfds_set_of_sound_says_what_to_do(shared_data):
    with pytest.raises(DataError, match=r"spoken_digit needs TensorFlow; use data\.source=wav_folder"):
        load(source="tfds", name="spoken_digit", data_dir=str(shared_data / "tfds"))


def test_tones_have_their_pitch_and_come_from_the_seed():
    dataset, again = (load(source="tones", length=2048, examples=60) for _ in range(2))
    train = dataset.arrays["train"]
    np.testing.assert_array_equal(train["audio"], again.arrays["train"]["audio"])
    assert not np.array_equal(
        train["audio"], load(source="tones", length=2048, examples=60, split_seed=1).arrays["train"]["audio"]
    )
    for audio, label in zip(train["audio"][:10], train["label"][:10], strict=True):
        peak = np.abs(np.fft.rfft(audio.astype(np.float64))).argmax() * RATE / 2048
        assert peak == pytest.approx(220 * 2 ** (label / 6), abs=1.5 * RATE / 2048)
    assert (train["audio"][train["mask"] == 0] == 0).all()


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

    context = Context(Hum(), dataset.info, batches, 8, None, jax.random.key(0))
    return dataset, evaluators.build(evaluators.parse(fields), context)(State(jnp.zeros((), jnp.int32), {}))


def test_samples_stand_beside_real_sounds_a_row_a_class(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "spectrograms", lambda *args: drawn.append(args) or np.zeros((2, 2, 3), np.uint8))
    dataset, report = evaluator(type="audio", columns=2)
    (shown, rate, rows, columns), test = drawn[0], dataset.arrays["test"]
    assert shown.shape == (3, 4, 64) and rate == RATE and rows == dataset.info.class_names
    assert columns == ("real", "real", "sampled", "sampled")
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


def test_a_spectrogram_shows_a_tone_where_it_is():
    t = np.arange(4000) / RATE
    levels = plots.spectrogram(1000 * np.sin(2 * np.pi * 1000 * t) + 100 * np.sin(2 * np.pi * 3000 * t))
    assert levels.shape == (129, (4000 - 256) // 64 + 1)
    bins = (32, 96)  # 1 kHz and 3 kHz in steps of 31.25 Hz
    assert (levels.argmax(axis=0) == bins[0]).all() and levels.max() == 0
    np.testing.assert_allclose(levels[bins[1]], -20, atol=0.1)  # a tenth of the amplitude
    assert levels[64].max() < -60
    assert plots.spectrogram(np.zeros(10, np.int16)).shape == (129, 1)
    shown = plots.spectrograms(np.zeros((2, 3, 500), np.int16), RATE, ("a", "b"), ("x", "y", "z"))
    assert shown.dtype == np.uint8 and shown.shape[2] == 3


def test_written_sounds_are_bit_exact(tmp_path):
    made = sound(50)[:, 0]
    with Writer(tmp_path) as writer:
        writer.write_audios(3, {"test/samples": np.stack([made, -made])[..., None] / 32767}, sample_rate=RATE)
    found, rate = soundfile.read(tmp_path / "samples/test_samples_00000003_1.wav", dtype="int16")
    assert rate == RATE
    np.testing.assert_array_equal(found, -made)


def test_sample_writes_wavs_arrays_and_a_picture(tmp_path, capsys):
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
    heard, rate = soundfile.read(io.BytesIO(stem.with_name(f"{stem.name}_2.wav").read_bytes()), dtype="int16")
    np.testing.assert_array_equal(heard, np.maximum(samples[2], -32767))
    assert rate == RATE
