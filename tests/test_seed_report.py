"""What the seeds of a run have in common, and what they cannot share."""

import json

import jax
import numpy as np
import pytest
from members import SMALLEST, smoke
from seeds_of import VAE, seeds

from gen_jax import cli, config, data
from gen_jax.errors import ConfigError, StorageError
from gen_jax.runs import plots
from gen_jax.runs.run_dir import RunDir
from gen_jax.training import seed_report, seed_runs, trained
from gen_jax.training.program import Program
from gen_jax.training.seeds import Seeds, make


def test_rows_of_seeds_are_merged_by_what_all_have():
    rows = [{"step": 4, "a": 1.0, "b": 2.0, "c": None}, {"step": 4, "a": 3.0, "c": 1.0}]
    found = seed_report.merged(rows)
    assert found.keys() == {"seeds", "a", "std/a", "c", "std/c"}
    assert (found["seeds"], found["a"], found["std/a"]) == (2, 2.0, pytest.approx(2**0.5))
    assert np.isnan(found["c"])
    assert seed_report.merged(rows[:1]).keys() == {"seeds", "a", "b", "c"}


def test_curves_have_a_band_where_there_is_a_deviation():
    rows = [{"step": step, "train/loss": 1 / step, "std/train/loss": 0.1} for step in range(1, 9)]
    (image,) = plots.of_a_run(rows).values()
    plain = plots.curves([{"step": row["step"], "train/loss": row["train/loss"]} for row in rows], title="Losses")
    assert ((image != plain).any(-1)).mean() > 0.05


@pytest.mark.parametrize("source", ["digits", "pydoc", "reversal", "colours"])
def test_a_set_with_another_seed_is_what_is_loaded_with_it(source):
    of = {"of": {"source": "digits"}} if source == "colours" else {}
    cfg = data.parse({"source": source, **of})
    found, loaded = data.load(cfg, 0).with_seed(7), data.load(cfg, 7)
    for step in (0, 11):
        here, there = (dataset.train_feed(8).rows(step) for dataset in (found, loaded))
        jax.tree.map(np.testing.assert_array_equal, here, there)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("mesh.data=2",), r"config\.num_seeds: expected 1 on 2 devices, or config\.mesh\.data=1"),
        (("parallel=pmap",), r"num_seeds: expected 1 where parallel is pmap"),
        (("optim.net.lora.rank=2",), r"num_seeds: expected 1 where optim\.net\.lora has a rank"),
        (("seed=4294967295",), r"num_seeds: expected at most 1, the seeds from 4294967295 on"),
    ],
)
def test_what_seeds_cannot_share_is_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        make(smoke(VAE, "num_seeds=2", *flags))


def test_inputs_that_depend_on_the_seed_are_refused():
    with pytest.raises(ConfigError, match=r"config\.num_seeds: expected 1, the inputs of CodePrior"):
        make(smoke(SMALLEST["code_prior"], "num_seeds=2"))


def test_what_reads_one_run_names_the_seeds(tmp_path, capsys):
    RunDir(tmp_path / "run").create(config.to_dict(seeds("num_seeds=2")))
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", f"--workdir={tmp_path / 'run'}", "--watch"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert "holds 2 seeds" in said and f"--workdir={tmp_path}/run/seed_0 follows one" in said
    with pytest.raises(ConfigError, match=r"expected one run, .* holds 2 seeds: .*/run/seed_0, "):
        trained.load(tmp_path / "run")


def test_bench_counts_all_seeds(capsys):
    cli.main(["bench", f"--config={VAE}:smoke", "--seconds=0.01", "--config.num_seeds=2", "--config.mesh.data=1"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["examples_per_s"] * found["ms_per_step"] == pytest.approx(2 * 16 * 1e3, rel=0.01)
    assert Seeds(seeds("num_seeds=2")).flops_per_step() == 2 * Program(seeds()).flops_per_step()


def test_every_run_is_closed_where_closing_one_fails():
    closed = []

    def run(i):
        try:
            yield 0
        finally:
            closed.append(i)
            raise StorageError(f"run {i} cannot write its status")

    class Failing(Seeds):
        def __init__(self): ...
        def advance(self, steps):
            raise ZeroDivisionError

    with pytest.raises(StorageError):
        seed_runs.side_by_side(Failing(), [run(i) for i in range(3)], after=lambda _: None)
    assert sorted(closed) == [0, 1, 2]
