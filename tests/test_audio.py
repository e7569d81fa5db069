"""Sound: wav folders and archives, tones, Markov models, spectrograms, what is written for people to listen to."""

import tarfile
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from sounds import RATE, folder, load, section, sound  # noqa: F401

from gen_jax import data
from gen_jax.data import tools
from gen_jax.errors import ConfigError, DataError


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
