"""The tokeniser that a run began with is the one that it keeps."""

import hashlib
import json

import pytest

from gen_jax import cli
from gen_jax.run_dir import RunDir
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
        data = dict(source="text_file", path=str(corpus), context=16, tokenizer="bpe", vocab_size=280) | section
        experiment = members.smoke("experiments/lstm/pydoc.py", "eval_batch_size=8", "batch_size=8", "save_every=2")
        raw = experiment.model_dump() | {"total_steps": total, "data": data}
        raw["model"] |= {"vocab": 320}
        raw["evals"] = {"mean": {"type": "mean", "split": "test"}}
        train(raw, tmp_path / name)
        return RunDir(tmp_path / name)

    return start


def test_a_run_keeps_the_tokenizer_that_it_began_with(run, monkeypatch):
    first = run()
    saved = first.tokenizer_file.read_bytes()
    starts = json.loads(first.manifest_file.read_text())["starts"]
    assert starts[0]["tokenizer_sha256"] == hashlib.sha256(saved).hexdigest()

    monkeypatch.setattr(BPETokenizer, "train", None)  # nothing below may train another
    monkeypatch.setenv("GEN_JAX_CACHE", str(first.path / "other"))
    assert run(total=4).tokenizer_file.read_bytes() == saved
    cli.main(["eval", f"--workdir={first.path}"])
