"""What the writer writes, read back by TensorBoard's own readers and by PIL."""

import io
import json
import os
import shlex
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util import tensor_util

from gen_jax.runs import events
from gen_jax.runs.log import Writer
from gen_jax.runs.tensorboard import tensorboard_command


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def read(run, tag):
    """The (step, array) pairs of a tag, and its metadata."""
    events = EventAccumulator(os.fspath(run), tensor_size_guidance={"scalars": 0}).Reload()
    pairs = [(event.step, tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
    return pairs, events.SummaryMetadata(tag)


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_tensorboard_reads_scalars_texts_histograms_and_audio(run):
    writer = Writer(run)
    wave_in = np.sin(np.arange(100) / 5)[None, :, None] * 0.5
    values = np.concatenate([np.zeros(30), np.ones(70), [np.nan, np.inf]])
    writer.write_scalars(10, {"train/loss": 1.25})
    writer.write_scalars(20, {"train/loss": np.float32(0.5)})
    writer.write_texts(0, {"config": "# größer\n`a`"})
    writer.write_histograms(5, {"w": values.reshape(2, -1)}, num_buckets={"w": 2})
    writer.write_audios(7, {"tone": wave_in}, sample_rate=8000)
    writer.close()

    pairs, meta = read(run, "train/loss")
    assert [(step, float(value)) for step, value in pairs] == [(10, 1.25), (20, 0.5)]
    assert meta.plugin_data.plugin_name == "scalars"
    pairs, meta = read(run, "config")
    assert pairs[0][1].item().decode() == "# größer\n`a`"
    assert meta.plugin_data.plugin_name == "text"
    pairs, meta = read(run, "w")
    np.testing.assert_allclose(pairs[0][1], [[0, 0.5, 30], [0.5, 1, 70]])
    assert meta.plugin_data.plugin_name == "histograms"
    pairs, meta = read(run, "tone")
    with wave.open(io.BytesIO(pairs[0][1][0, 0])) as sound:
        heard = np.frombuffer(sound.readframes(100), "<i2") / 32767
        assert sound.getframerate() == 8000
    np.testing.assert_allclose(heard, wave_in[0, :, 0], atol=1e-4)
    assert meta.plugin_data.plugin_name == "audio"


@pytest.mark.parametrize("channels", [1, 3])
def test_images_reach_tensorboard_and_samples_pixel_for_pixel(run, channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    writer = Writer(run)
    writer.write_images(30, {"test/samples": image, "pair": np.stack([image, image[::-1]])})
    writer.close()
    (_, blobs), meta = read(run, "test/samples")[0][0], read(run, "test/samples")[1]
    assert [int(n) for n in blobs[:2]] == [7, 5]  # width, height
    files = [blobs[2], (run / "samples" / "test_samples_00000030.png").read_bytes()]
    for png in files:
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))).reshape(image.shape), image)
    assert meta.plugin_data.plugin_name == "images"
    second = Image.open(run / "samples" / "pair_00000030_1.png")
    np.testing.assert_array_equal(np.asarray(second).reshape(image.shape), image[::-1])


def test_images_of_another_kind_are_refused_by_name(run):
    with (
        Writer(run) as writer,
        pytest.raises(ValueError, match=r"samples: expected uint8 .* found float32 \[4, 4, 3\]"),
    ):
        writer.write_images(0, {"samples": np.zeros((4, 4, 3), np.float32)})


def test_hparams(run):
    writer = Writer(run)
    writer.write_hparams({"model": {"width": 64, "sizes": [1, 2]}, "seed": 0, "bf16": True})
    writer.close()
    events = EventAccumulator(os.fspath(run)).Reload()
    contents = events.PluginTagToContent("hparams")
    start = hparams_metadata.parse_session_start_info_plugin_data(contents[hparams_metadata.SESSION_START_INFO_TAG])
    assert start.hparams["model.width"].number_value == 64
    assert start.hparams["model.sizes"].string_value == "[1, 2]"
    assert start.hparams["bf16"].bool_value is True
    assert set(start.hparams) == {"model.width", "model.sizes", "seed", "bf16"}
    assert hparams_metadata.EXPERIMENT_TAG not in contents  # TensorBoard would not show what differs


def test_a_step_is_one_row_and_values_are_exact(run):
    writer = Writer(run)
    writer.write_scalars(100, {"train/loss": 0.1, "train/n": np.int32(3)})
    writer.write_scalars(100, {"val/elbo": np.float32(0.1), "val/bad": float("inf")})
    assert not (run / "metrics.jsonl").exists()
    writer.end_step(100)
    first = (run / "metrics.jsonl").read_bytes()
    writer.write_scalars(200, {"train/loss": 0.2})
    writer.write_scalars(300, {"train/loss": 0.3})  # ends 200
    writer.write_perf(300, {"ms_per_step": 2.5})
    writer.close()  # 300 is not ended
    expected = {"step": 100, "train/loss": 0.1, "train/n": 3, "val/elbo": float(np.float32(0.1)), "val/bad": None}
    assert rows(run / "metrics.jsonl") == [expected, {"step": 200, "train/loss": 0.2}]
    assert (run / "metrics.jsonl").read_bytes().startswith(first) and first.endswith(b"\n")
    assert rows(run / "perf.jsonl") == [{"step": 300, "ms_per_step": 2.5}]
    assert read(run, "wall/ms_per_step")[0][0][1] == np.float32(2.5)


def test_resume_purges_later_events(run):
    for purge, steps, value in ((0, (1, 2, 3, 4), 1.0), (3, (3, 4, 5), 2.0)):
        writer = Writer(run, purge)
        for step in steps:
            writer.write_scalars(step, {"loss": value})
        if purge == 0:
            writer.write_scalars(4, {"only_before": 1.0})
        writer.close()
    pairs, _ = read(run, "loss")
    assert [(step, float(value)) for step, value in pairs] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert read(run, "only_before")[0] == []


def test_a_clock_that_was_set_back_does_not_change_the_order(run, monkeypatch):
    for purge, now, value in ((0, 2e9, 1.0), (2, 1e9, 2.0)):
        monkeypatch.setattr(events.time, "time", lambda now=now: now)
        with Writer(run, purge) as writer:
            for step in (1, 2)[purge // 2 :]:
                writer.write_scalars(step, {"loss": value})
    pairs, _ = read(run, "loss")
    assert [(step, float(value)) for step, value in pairs] == [(1, 1.0), (2, 2.0)]
    assert [int(name.split(".")[3]) for name in sorted(file.name for file in run.glob("events.*"))] == [
        2 * 10**9,
        2 * 10**9 + 1,
    ]


def test_tensorboard_names_runs_after_their_folders(tmp_path):
    for name in ("vae_digits", "gan_ring", "gan_ring/eval"):
        with Writer(tmp_path / name) as writer:
            writer.write_scalars(1, {"train/loss": 0.5})
            writer.write_perf(1, {"ms": 7})
    found = EventMultiplexer().AddRunsFromDirectory(os.fspath(tmp_path)).Reload()
    tags = {run: sorted(contents["tensors"]) for run, contents in found.Runs().items()}
    assert tags == {name: ["train/loss", "wall/ms"] for name in ("gan_ring", "gan_ring/eval", "vae_digits")}


def test_a_writer_beside_the_run_purges_nothing(run):
    for purge in (0, None):
        writer = Writer(run, purge)
        writer.write_scalars(1, {f"loss{purge}": 1.0})
        writer.close()
    assert len(read(run, "loss0")[0]) == 1


def test_tensorflow_is_never_imported_even_where_it_is(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('tensorflow was imported')")
    use = f"w = Writer({str(tmp_path / 'run')!r}); w.write_scalars(1, {{'a': 1}}); w.close()"
    root = Path(__file__).resolve().parent.parent
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"}
    done = subprocess.run(
        [sys.executable, "-c", f"from gen_jax.runs.log import Writer; {use}"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("logdir", "more"), [("runs/it's a b", []), ("gs://bucket/a b", ["--load_fast=false"])])
def test_a_shell_reads_the_tensorboard_command_as_it_is_meant(logdir, more):
    program, *words = shlex.split(tensorboard_command(logdir))
    assert program.endswith("/tensorboard") and words == [f"--logdir={logdir}", *more]
