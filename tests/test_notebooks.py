"""The notebooks of docs/: valid, small, with outputs of the code that they hold. The long test executes them."""

import json
import re
import runpy
import shlex
from pathlib import Path

import nbformat
import numpy as np
import pytest
from members import ROOT

from gen_jax import cli, config, config_file

RUN = runpy.run_path(str(ROOT / "docs/notebooks/run.py"))
PAGES = runpy.run_path(str(ROOT / "docs/notebooks/pages.py"))
NAMES = sorted(path.stem for path in (ROOT / "docs/notebooks").glob("*.ipynb"))
LARGEST = 250_000  # bytes of a notebook
LINES = 12  # that a cell prints


def texts(cell) -> list[str]:
    """What a code cell shows as text, an output each."""
    outputs = [output for output in cell.outputs if "image/png" not in output.get("data", {})]
    return [output.get("text") or output["data"]["text/plain"] for output in outputs]


def check_outputs(notebook) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {output.output_type for cell in cells for output in cell.outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    stderr = [output.text for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert all(re.fullmatch(r"data: .*\n", text) for text in stderr)  # what a source says of its splits, no warning
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) >= 3
    for cell in cells:
        assert sum(text.strip().count("\n") + 1 for text in texts(cell)) <= LINES, cell.id
    (training,) = (texts(cell) for cell in cells if "gen_jax.train(" in cell.source)
    (line,) = (text for text in training if text.startswith("train: "))
    assert re.fullmatch(r"train: step (\d+)/\1  \S+ it/s  ETA 0:00  elapsed \S+  \w*loss .*", line)
    assert training[-1].startswith("State(step=")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_valid_small_and_shows_what_it_says(name):
    path = ROOT / f"docs/notebooks/{name}.ipynb"
    notebook = RUN["read"](name)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST
    assert notebook.metadata[RUN["DIGEST"]] == RUN["digest"](notebook), f"stale: python docs/notebooks/run.py {name}"
    assert not [cell for cell in notebook.cells if cell.metadata]
    assert not re.search(r"/(home|root|tmp|work|Users)/", path.read_text())
    check_outputs(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_text_names_exists(name):
    prose = "\n".join(cell.source for cell in RUN["read"](name).cells if cell.cell_type == "markdown")
    for line in re.findall(r"`(gen-jax [^`]+)`", prose):
        cli.parse(shlex.split(line)[1:])
    known = config_file.experiments()
    families = {one.split("/")[0] for one in known}
    named = {one for one in re.findall(r"[`\"](\w+/\w+(?::[\w=]+)?)[`\"]", prose) if one.split("/")[0] in families}
    assert named
    for one in named:
        config.load(one)
    assert all((ROOT / file).exists() for file in re.findall(r"`(experiments/\S+\.py)`", prose))


def test_a_page_holds_all_of_a_notebook():
    notebook = json.loads((ROOT / "docs/notebooks/gan.ipynb").read_text())
    text, pictures = PAGES["page"](notebook, "gan")
    for cell in notebook["cells"]:
        assert "".join(cell["source"]) in text
    assert all(png.startswith(b"\x89PNG") and f"]({name})" in text for name, png in pictures.items())
    assert len(pictures) >= 4 and "train: step" in text and "<Figure" not in text
    assert (
        PAGES["on_page_markdown"]("[a](notebooks/gan.ipynb) [b](gan.ipynb)") == "[a](notebooks/gan.md) [b](gan.ipynb)"
    )


def executed(name: str, folder: Path, values: str):
    """A notebook's values, an expression of a dict, after its last cell."""
    notebook = RUN["read"](name)
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({values}))"))
    RUN["execute"](notebook, folder)
    last = notebook.cells.pop()
    check_outputs(notebook)
    return json.loads(last.outputs[0].text)


@pytest.mark.slow
def test_the_vae(tmp_path):
    found = executed(
        "vae",
        tmp_path,
        "dict(found=found, curve=run.curve('test/elbo')[1].tolist(), latents=latents.tolist(), labels=labels.tolist(),"
        " samples=[*samples.shape, str(samples.dtype)], images=images.shape)",
    )
    elbo = found["found"]["test/elbo"]
    assert -32 < elbo < found["found"]["test/log_likelihood"] < -20
    assert elbo == pytest.approx(found["curve"][-1], rel=1e-6) and elbo > found["curve"][0]
    assert found["samples"] == [64, 8, 8, 1, "uint8"] and found["images"] == [144, 8, 8, 1]
    latents, labels = np.array(found["latents"]), np.array(found["labels"])
    distance = np.linalg.norm(latents[:, None] - latents, axis=-1) + 1e9 * np.eye(len(latents))
    assert (labels[distance.argmin(axis=1)] == labels).mean() > 0.5  # the classes lie apart; 0.1 by chance


@pytest.mark.slow
def test_the_gan(tmp_path):
    found = executed(
        "gan",
        tmp_path,
        "dict(found=found, real=real.shape, near=np.linalg.norm(run.sample(1000), axis=1).tolist(),"
        " heights=np.asarray(heights).tolist(), early=np.linalg.norm(samples[100], axis=1).tolist())",
    )
    assert found["found"]["val/modes"] >= 7 and found["real"] == [600, 2]
    assert 1.7 < np.median(found["near"]) < 2.2  # the ring's radius is 2
    assert np.std(found["early"]) > 1.5 * np.std(found["near"])
    assert np.isfinite(found["heights"]).all() and np.shape(found["heights"]) == (80, 80)


@pytest.mark.slow
def test_the_language_model(tmp_path):
    found = executed(
        "language_model",
        tmp_path,
        "dict(found=found, nats=nats.tolist(), names=names, cost=cost.tolist(), start=tokens[:, 0].tolist(),"
        " groups={name: float(np.median(values)) for name, values in groups.items()})",
    )
    assert np.mean(found["nats"]) == pytest.approx(found["found"]["test/nats_per_record"], rel=1e-5)
    total = sum(map(len, found["names"])) + len(found["names"])  # with the end tokens
    assert np.sum(found["nats"]) / total == pytest.approx(found["found"]["test/loss"], rel=1e-5)
    assert found["found"]["test/loss"] < 2.5
    assert np.array(found["cost"])[-1].sum() > 25  # of a word that is none
    assert found["groups"]["test names, shuffled"] > 1.3 * found["groups"]["test names"]
    assert abs(found["groups"]["samples"] / found["groups"]["test names"] - 1) < 0.25


@pytest.mark.slow
def test_the_translation(tmp_path):
    found = executed(
        "translation",
        tmp_path,
        "dict(found=found, exact=float(exact.mean()), weights=weights.sum(axis=-1).tolist(), pairs=pairs[:100],"
        " beam=translated(beams=5), shape=weights.shape)",
    )
    greedy, beam = found["found"]["test/greedy_exact"], found["found"]["test/exact"]
    assert greedy == pytest.approx(found["exact"], abs=1e-9)
    assert 0.1 < greedy <= 1 and beam > greedy - 0.02
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert all(
        target == " ".join(words[int(digit)] for digit in reversed(source.split())) for source, target in found["pairs"]
    )
    assert len(found["pairs"]) == 100 and found["shape"][:2] == [2, 4]
    np.testing.assert_allclose(found["weights"], 1, atol=1e-5)  # attention to the source
