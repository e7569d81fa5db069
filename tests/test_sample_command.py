"""`gen-jax sample` on a model of text."""

from pathlib import Path

import numpy as np
import pytest
from members import SMALLEST, smoke

from gen_jax import cli
from gen_jax.train import train


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "run"
    train(smoke(SMALLEST["transformer"], "total_steps=2", "steps_per_call=2", "log_every=2", "evals={}"), path)
    return str(path)


def sample(workdir, *flags):
    """The exit code."""
    try:
        cli.main(["sample", f"--workdir={workdir}", *flags])
    except SystemExit as stop:
        return stop.code
    return 0


def files(workdir, seed):
    found = {path.suffix: path for path in Path(workdir, "samples").glob(f"*_seed{seed}.*")}
    with np.load(found[".npz"]) as arrays:
        return found[".txt"].read_bytes().decode(), dict(arrays)


def test_prompts_in_turn_each_with_its_texts(workdir, capsys):
    assert sample(workdir, "--prompt=def", "--prompt=clässe", "--n=2", "--length=5", "--top_k=9", "--seed=1") == 0
    shown = capsys.readouterr().out
    text, arrays = files(workdir, 1)
    assert shown == text
    assert arrays["tokens"].shape == (4, 5) and arrays["lengths"].tolist() == [5] * 4
    parts = text.split("\n" + "-" * 20 + "\n")
    assert [part.startswith(start) for part, start in zip(parts, ("def", "clässe") * 2, strict=True)] == [True] * 4


def test_streaming_writes_the_same_text(workdir, capsys):
    flags = ("--prompt=def", "--length=40", "--top_p=0.9")  # beyond the context of 16
    assert sample(workdir, *flags, "--seed=2") == 0
    whole = capsys.readouterr().out
    assert sample(workdir, *flags, "--seed=2", "--stream", "--overwrite") == 0
    assert capsys.readouterr().out == whole


def test_a_beam_search(workdir):
    assert sample(workdir, "--prompt=def", "--length=6", "--beams=3", "--seed=3") == 0
    assert files(workdir, 3)[1]["tokens"].shape == (1, 6)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--top_p=0",), "--top_p: expected a share above 0"),
        (("--top_k=-1",), "--top_k: expected at least 0"),
        (("--repetition_penalty=0",), "--repetition_penalty: expected a positive number"),
        (("--min_length=9", "--length=5"), "--min_length: expected at most the length, 5"),
        (("--stream", "--n=2"), "--stream: expected one prompt"),
        (("--beams=2", "--length=500", "--seed=9"), "length: expected prompt and text to fit into 16 tokens"),
        (("--label=1",), "--label: expected none"),
        (("--seed=4294967296",), "--seed: expected less than 4294967296"),
    ],
)
def test_wrong_flags_are_one_line(workdir, flags, message, capsys):
    assert sample(workdir, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_ids_without_a_tokenizer_are_written_whole_and_not_streamed(tmp_path, capsys):
    train(smoke("experiments/lstm/markov.py", "total_steps=2", "log_every=2", "evals={}"), tmp_path / "run")
    assert sample(tmp_path / "run", "--length=1500", "--seed=1") == 0
    text, arrays = files(tmp_path / "run", 1)
    assert text.split() == [str(i) for i in arrays["tokens"][0]]
    capsys.readouterr()
    assert sample(tmp_path / "run", "--length=5", "--stream") == 2
    assert "--stream: expected a model of text" in capsys.readouterr().err
