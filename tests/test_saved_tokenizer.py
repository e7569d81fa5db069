"""The tokeniser that a run began with is the one that it keeps."""

import hashlib
import json
import shutil

import pytest

from gen_jax import cli
from gen_jax.errors import ConfigError
from gen_jax.runs.run_dir import RunDir
from gen_jax.text import BPETokenizer
from gen_jax.train import train
from tests import members


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains to `total` in the folder `name`."""
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the cat sat on the mat, 你好 😀\n" * 400)

    def start(name="run", total=2, **section):
        corpus_in_bpe = dict(source="text_file", path=str(corpus), context=16, tokenizer="bpe", vocab_size=280)
        data = section if "source" in section else corpus_in_bpe | section
        experiment = members.smoke("experiments/lstm/pydoc.py", "eval_batch_size=8", "batch_size=8", "save_every=2")
        raw = experiment.model_dump() | {"total_steps": total, "data": data}
        raw["model"] |= {"vocab": 320}
        raw["evals"] = {"mean": {"type": "mean", "split": "test"}}
        train(raw, tmp_path / name)
        return RunDir(tmp_path / name)

    return start


@pytest.mark.slow
def test_a_run_keeps_the_tokenizer_that_it_began_with(run, monkeypatch):
    first = run()
    saved = first.tokenizer_file.read_bytes()
    starts = json.loads(first.manifest_file.read_text())["starts"]
    assert starts[0]["tokenizer_sha256"] == hashlib.sha256(saved).hexdigest()

    monkeypatch.setattr(BPETokenizer, "train", None)  # nothing below may train another
    monkeypatch.setenv("GEN_JAX_CACHE", str(first.path / "other"))
    assert run(total=4).tokenizer_file.read_bytes() == saved
    cli.main(["eval", f"--workdir={first.path}"])


def test_tokens_that_changed_since_the_run_began_are_refused(run, tmp_path):
    tokens = str(tmp_path / "tokens")
    tokenize = ["data", "tokenize", f"--path={tmp_path / 'corpus.txt'}", f"--out={tokens}"]
    cli.main([*tokenize, "--tokenizer=byte"])
    section = dict(source="token_file", path=tokens, context=16)
    run("of_tokens", **section)
    shutil.rmtree(tokens)
    cli.main([*tokenize, "--tokenizer=char"])
    with pytest.raises(ConfigError, match="the tokeniser that the run began with"):
        run("of_tokens", total=4, **section)
