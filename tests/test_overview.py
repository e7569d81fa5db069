"""`gen-jax compare --table`: runs of any family side by side, from what they recorded."""

import csv
import io
import json

import numpy as np
import pytest

from gen_jax import cli, config
from gen_jax.commands import overview
from gen_jax.commands.overview import Recorded
from gen_jax.runs import metric_tags, plots

DATA = {"kind": "image", "shape": [8, 8, 1], "contents of test": "ab"}
HOW = {"n_real": 180, "n_fake": 100, "features": "classifier-ab"}
FAMILIES = {"vae": "experiments/vae/digits.py", "ar": "experiments/transformer/digits_pixels.py"}
FAMILIES |= {"gan": "experiments/gan/digits_dcgan.py", "diffusion": "experiments/diffusion/digits.py"}


def quality(**facts):
    found = {"fid": 2.0, "kid": 0.25, "precision": 0.5, "recall": 0.75, "density": 1.5, "coverage": 0.875}
    return {metric_tags.tag(f"test/{name}", **HOW | facts): value for name, value in found.items()}


def rows(path, *each):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in each))


@pytest.fixture
def make(tmp_path):
    """A run directory of a family with these scalars at its last step."""

    def made(family, name="", data=DATA, timings=(), flags=(), tags=None):
        folder = tmp_path / (name or family)
        experiment = config.load(FAMILIES[family], [f"--config.{flag}" for flag in flags])
        rows(folder / "metrics.jsonl", {"step": 4, **dict.fromkeys(tags or {}, 99.0)}, {"step": 8, **(tags or {})})
        rows(folder / "perf.jsonl", *timings)
        (folder / "config.json").write_text(json.dumps(config.to_dict(experiment)))
        (folder / "data.json").write_text(json.dumps({"fingerprint": data, "accepted": []}))
        starts = [{"time": 0}, {"parameters": {"gen": 1000, "disc": 234}}]
        (folder / "manifest.json").write_text(json.dumps({"run": "a", "starts": starts}))
        return folder

    return made


def table(capsys, *words):
    cli.main(["compare", "--table", *map(str, words)])
    return capsys.readouterr().out


def refused(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["compare", *map(str, words)])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    return error


def cells(out):
    """{run: {column: cell}} of a table in Markdown."""
    head, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if "|" in line]
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_each_family_says_what_it_knows(make, capsys, tmp_path):
    timings = [{"step": 4, "ms_per_step": 30_000.0}, {"step": 8, "ms_per_step": 15_000.0}, {"step": 8, "mfu": 1}]
    vae = make("vae", tags={"test/elbo": -90.0, "test/bits_per_dim": 2.0} | quality(), timings=timings)
    rows(vae / "eval/metrics.jsonl", {"step": 8, "test/log_likelihood": -85.5, "test/log_likelihood_bits_per_dim": 1.9})
    likelihood = {"test/log_prob": -80.0, "test/bits_per_dim": 1.8}
    speed = {"step": 8, "test/samples_per_s@batch=4,devices=1 x cpu": 12.0}
    ar = make("ar", tags=likelihood | quality() | {"test/network_evaluations": 64}, timings=[speed])
    diffusion = make("diffusion", tags={"test/elbo": -81.0, "test/bits_per_dim": 1.85} | quality())
    gan = make("gan", tags=quality() | {"std/" + next(iter(quality())): 0.125})
    table(capsys, vae, ar, diffusion, gan, f"--out={tmp_path / 'out'}")
    found = cells((tmp_path / "out/table.md").read_text())
    assert [found[name]["model"] for name in found] == ["vae", "pixel_transformer", "diffusion", "gan"]
    assert found["vae"]["minutes"] == "3" and found["vae"]["parameters"] == "1,234"
    assert [row["nats"] for row in found.values()] == ["-85.5 estimate", "-80 exact [1]", "-81 bound [2]", ""]
    assert [row["bits/dim"] for row in found.values()] == ["1.9 estimate", "1.8 exact [1]", "1.85 bound [2]", ""]
    assert [row["fid"] for row in found.values()] == ["2", "2", "2", "2 +- 0.12"]
    assert (found["ar"]["samples_per_s"], found["ar"]["network_evaluations"]) == ("12", "64")
    assert [row["conditioned on"] for row in found.values()] == ["-", "class", "class", "-"]


def test_likelihoods_of_other_pixels_are_marked(make, capsys):
    tags = {"test/elbo": -90.0, "test/bits_per_dim": 2.0}
    out = table(capsys, make("vae", tags=tags), make("diffusion", tags=tags), make("vae", "again", tags=tags))
    assert out.count("-90 bound [1]") == 1
    assert "[1] nats, bits/dim of diffusion: grey levels 256, not 2 (of vae)" in out
    binary = make("ar", flags=["model.levels=2"], tags={"test/log_prob": -80.0, "test/bits_per_dim": 1.8})
    assert "[1]" not in table(capsys, make("vae", "bits", tags=tags), binary)
    grey = make("vae", "grey", flags=["model.likelihood=logistic_mixture"], tags=tags)
    assert "[1]" not in table(capsys, make("diffusion", tags=tags), grey)
    density = {"test/elbo": -90.0}  # of a Gaussian: without bits a dimension
    assert "-90" not in table(capsys, make("vae", "gaussian", flags=["model.likelihood=gaussian"], tags=density))


def test_numbers_that_were_not_measured_alike_are_marked_and_explained(make, capsys):
    first, other = make("gan", tags=quality()), make("diffusion", tags=quality(n_fake=50))
    lines = table(capsys, first, other).splitlines()
    assert lines[1].split()[-7:] == ["1,234", "2", "0.25", "0.5", "0.75", "1.5", "0.875"]
    assert lines[2].split()[-6::2] == ["0.75", "1.5", "0.875"] and lines[2].count("[1]") == 6
    names = "fid, kid, precision, recall, density, coverage"
    assert f"[1] {names} of diffusion: n_fake 50, not 100 (of gan)" in lines


def test_of_several_measurements_the_one_like_the_first_run_is_shown(make, capsys):
    both = quality(n_fake=50) | {tag: 2 * value for tag, value in quality().items()}
    out = table(capsys, make("gan", tags=quality()), make("diffusion", tags=both | quality(n_fake=20)))
    assert out.splitlines()[2].split()[-6:] == ["4", "0.5", "1", "1.5", "3", "1.75"] and "[1]" not in out


def test_samples_are_those_of_the_runs_own_options(make, capsys):
    sweep = {f"{tag},sampling.steps=9": 7.0 for tag in quality()}
    out = table(capsys, make("diffusion", "plain", tags=quality() | sweep))
    assert " 2  " in out and out.splitlines()[1].split()[-6:-4] == ["2", "0.25"]
    tags = sweep | quality() | {"test/elbo": -90.0, "test/bits_per_dim": 2.0, "test/fid_floor": 0.5}
    own = make("diffusion", "own", flags=["sampling.steps=9"], tags=tags)
    assert "-90 bound" in table(capsys, own)
    assert table(capsys, own).splitlines()[1].split()[-6:-4] == ["7", "7"]


def test_the_table_says_how_to_fill_what_is_empty(make, capsys):
    out = table(capsys, make("gan", tags=quality()), make("vae", tags={"test/elbo": -90.0, "test/bits_per_dim": 2.0}))
    assert "no fid, kid, precision, recall, density, coverage of vae: from `gen-jax eval --workdir=RUN" in out
    assert "no nats, bits/dim of gan: from" in out and "--config.evals.NAME.type=speed" in out
    assert "samples_per_s" not in out.splitlines()[0]


def test_other_data_are_refused_or_marked(make, capsys):
    runs = make("gan", tags=quality()), make("vae", data=DATA | {"contents of test": "cd"}, tags=quality())
    assert "vae has other data than gan: contents of test differ; --accept_data" in refused(capsys, "--table", *runs)
    lines = table(capsys, *runs, "--accept_data").splitlines()
    assert lines[2].count("[1]") == 6 and "[1] vae has other data than gan: contents of test differ" in lines
    (runs[0] / "data.json").unlink()
    assert "has no data.json: its data are unknown" in refused(capsys, "--table", *runs)


def test_wrong_words_are_one_line(make, capsys, tmp_path):
    gan = make("gan", tags=quality())
    assert "no config.json" in refused(capsys, "--table", gan, tmp_path / "nothing")
    assert "--split: expected none beside --metric" in refused(capsys, "--metric=test/fid", "--split=test", gan)
    assert "not allowed with" in refused(capsys, "--metric=test/fid", "--table", gan)
    assert "one of the arguments --metric --table is required" in refused(capsys, gan)


def test_files_hold_the_numbers_in_full_and_the_pictures_side_by_side(make, capsys, tmp_path, written):
    third = {"test/elbo": -1 / 3, "test/bits_per_dim": 1 / 7}
    gan, vae = make("gan", tags=quality()), make("vae", tags=third | quality(n_fake=9))
    for folder, step, value in ((gan / "samples", 4, 10), (gan / "samples", 8, 60), (gan / "eval/samples", 6, 90)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"test_samples_{step:08d}.png").write_bytes(plots.png(np.full((4, 2, 1), value, np.uint8)))
    table(capsys, gan, vae, f"--out={tmp_path / 'out'}")
    one, two = csv.DictReader(io.StringIO((tmp_path / "out/table.csv").read_text()))
    assert (float(two["nats"]), two["likelihood"], one["nats"], one["notes"]) == (-1 / 3, "bound", "", "")
    assert two["notes"].startswith("[1] fid, kid") and float(one["fid"]) == 2
    picture = plots.read_png((tmp_path / "out/samples.png").read_bytes())
    assert {"gan: FID 2", "vae: FID 2 [1], no picture"} == set(written)
    values, counts = np.unique(picture[..., 0], return_counts=True)
    assert values.tolist() == [60, 255] and counts[0] == 512 * 256  # the newest, at one height; no picture of the other


def test_real_images_have_a_row_of_their_own(make, capsys):
    floors = {metric_tags.tag("test/fid_floor", **HOW, of="train-ab"): 0.5}
    other = {metric_tags.tag("test/kid_floor", **HOW | {"features": "other"}, of="train-ab"): 0.5}
    out = table(capsys, make("gan", tags=quality() | floors | other), make("diffusion", tags=quality())).splitlines()
    assert out[3].split() == ["(real", "images)", "-", "-", "0.5"]


def test_runs_of_one_name_are_told_apart_by_their_paths(make, capsys):
    out = table(capsys, make("gan", "a/run", tags=quality()), make("vae", "b/run", tags=quality()))
    assert [line.split()[0][-5:] for line in out.splitlines()[1:3]] == ["a/run", "b/run"]


def test_validation_and_several_seeds(make, capsys):
    seeds = make("gan", tags={"val/kid": 0.125, "std/val/kid": 0.5})
    assert "0.125 +- 0.5" in table(capsys, seeds, "--split=validation")
    assert Recorded(str(seeds), "test").find("kid") == []
    assert overview.overview([str(seeds)], "validation", False).columns[3:] == ["parameters", "kid"]
