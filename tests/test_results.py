"""`EXPECT` in a config's file: what is wrong in it, the pages made from it, and `gen-jax reproduce`."""

import re
import runpy
from typing import Any

import pytest
from members import CONFIGS, ROOT

from gen_jax import cli
from gen_jax.commands import reproduce
from gen_jax.errors import ConfigError
from gen_jax.results import expected
from gen_jax.results.expected import Metric
from gen_jax.runs.run_dir import RunDir

PAGES = runpy.run_path(str(ROOT / "docs/results.py"))
FILE = """from ml_collections import ConfigDict
ARGS = dict(smoke=False, size=("s", "m"), run="")
EXPECT = {expect}


def get_config(arg):
    c = ConfigDict(dict(total_steps=20, batch_size=64, steps_per_call=10, log_every=10))
    c.data = dict(source="ar", length=16, examples=200)
    c.model_name, c.model = "linear_ar", dict(order=1, data_dim=16)
    c.optim = dict(net=dict(lr=0.05))
    c.evals = dict(mean=dict(type="mean"))
    c.mesh = dict(data=1)
    return c
"""
LOSS: dict[str, Any] = dict(metric="test/loss", value=1.0, tolerance=0.1)


def file(folder, *entries) -> str:
    path = folder / "c.py"
    path.write_text(FILE.format(expect=list(entries)))
    return str(path)


@pytest.mark.parametrize("path", CONFIGS)
def test_the_expectations_of_a_config_are_valid(path):
    for one in expected.of_file(path):
        assert expected.find(expected.spec_of(path, one)) == one
        assert one.metrics or one.note


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([dict(metric="test/loss")], r"c\.py: EXPECT\[0\]\.metric: unknown key"),
        ([dict(metrics=[dict(LOSS, tolerance=-1)])], r"EXPECT\[0\]\.metrics\.0\.tolerance: expected .* got -1"),
        ([dict(), dict(arg="size=l")], r"unknown argument 'size=l'; known: smoke, size=s\|m, run=TEXT"),
        (
            [dict(arg="run=a"), dict(arg="run=b")],
            r"EXPECT\[1\]\.arg: expected another one than that of an earlier entry",
        ),
    ],
)
def test_a_wrong_expectation_is_one_line(entries, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        expected.of_file(file(tmp_path, *entries))


def test_an_expectation_is_found_by_what_the_argument_means(tmp_path):
    """A text that it leaves out may be anything; one that it names must be given, and is then preferred."""
    entries = [dict(note="s"), dict(arg="run=a", note="s, run"), dict(arg="size=m,run=a", note="m, run")]
    path = file(tmp_path, *(dict(one, metrics=[LOSS]) for one in entries[1:]), dict(entries[0], metrics=[LOSS]))
    found = [expected.of(f"{path}{arg}").note for arg in ("", ":size=s", ":run=b", ":run=b,size=m")]
    assert found == ["s", "s", "s, run", "m, run"]
    for arg in ("smoke", "size=m"):
        with pytest.raises(
            ConfigError, match=rf"c\.py:{arg}: expected an entry in EXPECT with metrics; these have one: "
        ) as error:
            expected.of(f"{path}:{arg}")
        assert str(error.value).endswith(f": {path}:run=a, {path}:size=m,run=a, {path}")


def test_the_tables_of_the_pages_are_those_of_the_configs():
    for page in PAGES["PAGES"]:
        assert PAGES["filled"](page.read_text()) == page.read_text(), f"{page.name} is stale: python docs/results.py"


def test_each_family_has_its_table_and_one_page_has_all():
    families = {path.split("/")[1] for path in CONFIGS}
    marks = {page.name: page.read_text() for page in PAGES["PAGES"]}
    assert "<!-- results -->" in marks["results.md"]
    assert all(f"<!-- results {family} -->" in marks["families.md"] for family in families)
    measured = {
        path.split("/")[1] for path in CONFIGS if any(one.metrics for one in expected.of_file(f"{ROOT}/{path}"))
    }
    assert {spec.split("/")[0] for spec, _ in PAGES["FIRST"].values()} | {"wavenet"} == measured  # it needs sound files


def test_a_row_holds_what_the_config_says():
    metrics = (
        Metric(metric="test/a", value=-86.76, tolerance=0.25, seeds=3, unit="nats", published=1.5, source="Who 2016"),
        Metric(metric="test/b", value=1000, tolerance=0),
    )
    one = expected.Expectation(minutes=2.5, machine="a GPU", metrics=metrics)
    assert PAGES["row"]("vae/x:k=2", one) == [
        "| `vae/x:k=2` | `test/a` | -86.76 ± 0.25 nats (3 seeds) | 1.5 (Who 2016) | 2.5, a GPU |\n",
        "|  | `test/b` | 1,000 ± 0 | - |  |\n",
    ]
    assert PAGES["row"]("vae/x", expected.Expectation(note="no")) == ["| `vae/x` | - | - | - | - |\n"]


@pytest.mark.parametrize(
    ("values", "within"),
    [([1.1], True), ([0.8, 1.0], True), ([1.11], False), ([0.5, 1.0], False), ([1.0, None], False)],
)
def test_the_mean_over_seeds_is_compared(values, within):
    assert reproduce.Found(Metric(**LOSS), values).within() is within


def test_a_result_is_shown_beside_what_was_expected():
    found = reproduce.Found(Metric(**LOSS, published=0.9, source="entropy"), [1.0, 1.2, 1.1])
    shown = reproduce.report([found]).splitlines()[1]
    assert re.split(r" {2,}", shown) == ["test/loss", "1.1", "0.1", "1", "0.1", "0.9 (entropy)", "ok"]


def ends(capsys, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and the last line of stderr of `gen-jax reproduce`."""
    code: Any = 0
    try:
        cli.main(["reproduce", *argv])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    return code, said.out, said.err.strip().splitlines()[-1] if said.err.strip() else ""


def test_a_config_is_trained_once_and_compared(tmp_path, capsys):
    wide, narrow = dict(LOSS, value=0.0, tolerance=100.0), dict(LOSS, value=50.0, tolerance=1.0)
    argv = (f"--workdir={tmp_path / 'r'}", "--seeds=2")
    code, out, _ = ends(capsys, f"--config={file(tmp_path, dict(metrics=[wide]))}", *argv)
    runs = [RunDir(tmp_path / f"r/seed_{seed}") for seed in (0, 1)]
    losses = [run.rows()[-1]["test/loss"] for run in runs]
    assert code == 0 and out.splitlines()[1].split()[:2] == ["test/loss", f"{sum(losses) / 2:.6g}"]
    assert [run.config()["seed"] for run in runs] == [0, 1] and losses[0] != losses[1]
    before = [run.metrics.read_bytes() for run in runs]
    code, out, err = ends(capsys, f"--config={file(tmp_path, dict(metrics=[narrow]))}", *argv)
    assert code == 1 and "outside" in out
    assert err == f"gen-jax: test/loss: expected 50 within 1, got {sum(losses) / 2:.6g}"
    assert [run.metrics.read_bytes() for run in runs] == before


@pytest.mark.parametrize(
    ("entries", "flags", "message"),
    [
        ([], (), "expected an entry in EXPECT"),
        ([dict(note="not run")], (), "expected an entry in EXPECT"),
        (
            [dict(metrics=[dict(LOSS, metric="test/los")])],
            (),
            "expected a metric of its evaluators, got 'test/los'; did you mean test/loss?",
        ),
        ([dict(metrics=[LOSS])], ("--seeds=0",), "--seeds: expected 1 to 1000, got 0"),
        ([dict(metrics=[LOSS])], ("--config.num_seeds=2",), "config.num_seeds: expected 1 beside --seeds, got 2"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(entries, flags, message, tmp_path, capsys):
    code, _, err = ends(capsys, f"--config={file(tmp_path, *entries)}", f"--workdir={tmp_path / 'r'}", *flags)
    assert code == 2 and message in err
    assert not (tmp_path / "r").exists()


def test_no_seed_is_trained_where_the_folder_of_another_is_taken(tmp_path, capsys):
    (tmp_path / "r/seed_1").mkdir(parents=True)
    (tmp_path / "r/seed_1/mine.txt").write_text("mine")
    argv = (f"--config={file(tmp_path, dict(metrics=[LOSS]))}", f"--workdir={tmp_path / 'r'}", "--seeds=2")
    code, _, err = ends(capsys, *argv)
    assert code == 2 and f"workdir: {tmp_path}/r/seed_1 is not empty and holds no run" in err
    assert sorted(path.name for path in (tmp_path / "r").rglob("*")) == ["mine.txt", "seed_1"]


def test_runs_are_named_after_the_config():
    assert reproduce.default("experiments/vae/mnist_iwae.py:k=5") == "runs/reproduce/vae_mnist_iwae_k_5"
    assert reproduce.default("vae/digits") == "runs/reproduce/vae_digits"
