"""`gen-jax sample --caption=TEXT` on a model of captions."""

from pathlib import Path

import numpy as np
import pytest
from members import sample, smoke

from gen_jax.train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("captions") / "run"
    short = ("total_steps=2", "steps_per_call=2", "log_every=2", "evals={}")
    train(smoke("experiments/diffusion/shapes.py", *short), path)
    return str(path)


def test_samples_stand_above_their_captions(workdir, written):
    asked = ("a red circle at the top", "two red circles on the left")
    assert sample(workdir, *(f"--caption={text}" for text in asked), "--n=3", "--seed=1", "--guidance=2") == 0
    (file,) = Path(workdir, "samples").glob("*_seed1.npz")
    with np.load(file) as arrays:
        assert arrays["samples"].shape == (3, 16, 16, 3)
    assert len(written["a red circle at the"]) == 2 and len(written["two red circles on"]) == 1


def test_without_captions_those_of_the_data_are_drawn(workdir, written):
    assert sample(workdir, "--n=2", "--seed=2") == 0
    assert len(written) > 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--caption=a purple circle"], "--captions: expected words of a, above, "),
        (["--caption=" + "a " * 9], "--captions: expected at most 8 tokens, as in the data, got 9"),
        (["--label=1"], "--label: expected none; this model knows no classes, got 1"),
    ],
)
def test_what_the_model_cannot_read_is_one_line(workdir, capsys, flags, message):
    assert sample(workdir, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
