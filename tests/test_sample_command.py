"""`gen-jax sample` on a model of text."""

from pathlib import Path

import numpy as np
import pytest
from etils import epath
from members import SMALLEST, sample, smoke

from gen_jax import cli
from gen_jax.commands import outputs
from gen_jax.train import train


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "run"
    train(smoke(SMALLEST["transformer"], "total_steps=2", "steps_per_call=2", "log_every=2", "evals={}"), path)
    return str(path)


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


def test_the_long_names_of_options_ask_for_the_same(workdir, capsys):
    assert sample(workdir, "--temperature=0", "--length=6", "--prompt=def", "--seed=5") == 0
    short = capsys.readouterr().out
    flags = ("--sampling.temperature=0", "--sampling.length", "6", "--sampling.prompts=def", "--seed=5", "--overwrite")
    assert sample(workdir, *flags) == 0
    assert capsys.readouterr().out == short


def test_help_lists_the_options_of_the_run(workdir, capsys):
    assert sample(workdir, "--help") == 0
    shown = capsys.readouterr().out
    for line in (
        "--top_p: float > 0, <= 1, default 1.0",
        "--length: int > 0, <= 1.67772e+07 | None, default None",
        "--prompt (repeatable) or --sam",
    ):
        assert line in shown
    assert "Draws of the fewest likeliest tokens whose probability reaches p" in " ".join(shown.split())
    with pytest.raises(SystemExit):
        cli.main(["sample", "--help"])
    assert "With --workdir=D also the options of the run's model" in capsys.readouterr().out


def test_streaming_writes_the_same_text(workdir, capsys):
    flags = ("--prompt=def", "--length=40", "--top_p=0.9")  # beyond the context of 16
    assert sample(workdir, *flags, "--seed=2") == 0
    whole = capsys.readouterr().out
    assert sample(workdir, *flags, "--seed=2", "--stream", "--overwrite") == 0
    assert capsys.readouterr().out == whole


def test_a_beam_search_gives_the_n_best_of_each_prompt(workdir):
    flags = ("--length=4", "--beams=3", "--n=2", "--seed=3")
    assert sample(workdir, "--prompt=def", "--prompt=for", *flags) == 0
    both, arrays = files(workdir, 3)
    assert len(set(both.split("\n" + "-" * 20 + "\n"))) == 4
    assert arrays["tokens"].shape == (4, 4)


def test_files_are_numbered_where_any_of_that_name_is_there(tmp_path):
    for name in ("run_seed4.png", "run_seed4-2.txt", "run_seed4-3_0.wav", "run_seed42.npz"):
        (tmp_path / name).touch()
    assert outputs.free(epath.Path(tmp_path), "run_seed4", overwrite=False) == "run_seed4-4"
    assert outputs.free(epath.Path(tmp_path), "run_seed4", overwrite=True) == "run_seed4"
    assert outputs.free(epath.Path(tmp_path), "run_seed", overwrite=False) == "run_seed"


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--top_p=0",), "--top_p: expected greater than 0, got 0"),
        (("--top_k=-1",), "--top_k: expected greater than or equal to 0, got -1"),
        (("--repetition_penalty=0",), "--repetition_penalty: expected greater than 0"),
        (("--stream", "--n=2"), "--stream: expected one prompt"),
        (
            ("--beams=2", "--length=500", "--seed=9"),
            "--length: expected prompt and text to fit into 16 tokens",
        ),
        (("--label=1",), "--label: the model transformer has no such option; known: "),
        (("--tempature=0.5",), "--tempature: the model transformer has no such option; did you mean temperature?"),
        (("--sampling.topp=0.5",), "--sampling.topp: the model transformer has no such option; did you mean top_p?"),
        (("--overwrit=1",), "--overwrit: the model transformer has no such option; did you mean overwrite?"),
        (("--sampling.prompts=('a',)", "--prompt=b"), "--prompt: expected nothing else that gives prompts"),
        (("--prompt=b", "--sampling.prompts=('a',)"), "--sampling.prompts: expected nothing else that gives prompts"),
        (("--end=999",), "--end: expected a token from 0 to 255, got 999"),
        (("--end=-5",), "--end: expected a token from 0 to 255, got -5"),
        (("--temperature",), "--temperature: expected a value"),
        (("--prompt",), "--prompt: expected a value"),
        (("--sampling.prompts=((300,),)",), "--prompts: expected token ids from 0 to 255, got 300"),
        (("--seed=4294967296",), "--seed: expected at most 4294967295, got a larger one"),
        (("--n=1000000000000000000000000000000",), "--n: expected at most 4294967295, got a larger one"),
        (("--n=1048577",), "--n: expected at least 1 and at most 1048576, got 1048577"),
        (("--length=2147483647",), "--length: expected less than or equal to 16777216, got 2147483647"),
        (("--n=1048576", "--length=16777216"), "gen-jax: --length: expected what fits the memory of a device: needed"),
        (
            ("--n=1048576", "--length=100000"),
            "gen-jax: --n: expected what fits the memory of a device: needed",
        ),
        (("--n=1048576", "--prompt=" + "ab" * 10**5), "gen-jax: --n: expected what fits the memory of a device"),
        (("--temperature=nan",), "--temperature: expected"),
        (("--temperature=inf",), "--temperature: expected"),
        (("--min_p=1.5",), "--min_p: expected less than or equal to 1, got 1.5"),
        (("--min_length=2",), "--min_length: expected none; the texts of this model have no end token"),
        (("--length_penalty=1",), "--length_penalty: expected 0.6 without beams"),
        (("--beams=2", "--temperature=0.5"), "--temperature: expected 1.0 beside beams: a beam search draws nothing"),
        (("--beams=2", "--top_k=3"), "--top_k: expected 0 beside beams"),
        (("--beams=2", "--top_p=0.5"), "--top_p: expected 1.0 beside beams"),
        (("--beams=2", "--min_p=0.1"), "--min_p: expected 0.0 beside beams"),
        (("--beams=2", "--repetition_penalty=1.5"), "--repetition_penalty: expected 1.0 beside beams"),
        (("--beams=3", "--prompt=de", "--prompt=for"), "gen-jax: --beams: expected prompts of one length"),
        (("--beams=2", "--n=3"), "--n: expected at most 2 of each prompt, the beams, got 3"),
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
