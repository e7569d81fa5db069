"""Seeds that train as one program: each is its own single run, nothing compiles twice, what is cut short continues."""

import collections
import csv
import dataclasses
import json
import os
import signal
import statistics

import jax
import numpy as np
import pytest
from members import SMALLEST, assert_same, smoke
from test_killed import gen_jax

from gen_jax import cli, config, data
from gen_jax.errors import ConfigError, NonFiniteError, Preempted, StorageError
from gen_jax.runs import plots, step_dirs
from gen_jax.runs.restore import load
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training import seed_report, seed_runs, trained
from gen_jax.training.loop import Loop
from gen_jax.training.program import Program
from gen_jax.training.seeds import MAPS, Seeds, make

VAE = SMALLEST["vae"]
LONG = ("total_steps=12", "log_every=2", "eval_every=4", "save_every=6", "num_seeds=2")


@pytest.fixture(params=["in_turn", "vmapped"])
def mapped(request, monkeypatch):
    """Both ways that the step is mapped over seeds."""
    if request.param == "vmapped":
        monkeypatch.delitem(MAPS, "cpu")


def losses(program, steps):
    """The metrics of each step, {name: [] or [S]}, and the last state."""
    state, seen, k = program.init(), [], program.experiment.steps_per_call
    for step in range(0, steps, k):
        state, metrics = program.step(state, step)
        means = {name: mean.total / mean.weight for name, mean in jax.device_get(metrics).items()}
        seen += [{name: mean[..., i] for name, mean in means.items()} for i in range(k)]
    return seen, state


def each_is_its_own(path, steps, rel=1e-5):
    several = smoke(path, "num_seeds=2", "seed=5")
    together, states = losses(Seeds(several), steps)
    for i in range(2):
        single = several.model_copy(update={"num_seeds": 1, "seed": 5 + i})
        alone, state = losses(Program(single), steps)
        for here, there in zip(together, alone, strict=True):
            for name, value in there.items():
                np.testing.assert_allclose(here[name][i], value, rtol=rel, atol=rel, err_msg=name)
        assert jax.tree.structure(states) == jax.tree.structure(state)
        step, other = (int(np.asarray(s.step).ravel()[-1]) for s in (states, state))
        assert step == other == steps


@pytest.mark.usefixtures("mapped")
def test_each_seed_equals_its_single_run():
    each_is_its_own(VAE, 50)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(SMALLEST) - {"vae", "code_prior"}))
def test_each_seed_of_any_model_equals_its_single_run(name, monkeypatch):
    monkeypatch.delitem(MAPS, "cpu")
    each_is_its_own(SMALLEST[name], 4)


def seeds(*flags, evals=("elbo",)):
    """The smallest VAE, with few evaluators: most of the time is compiling."""
    experiment = smoke(VAE, *flags)
    return experiment.model_copy(update={"evals": {name: experiment.evals[name] for name in evals}})


def test_a_run_holds_an_ordinary_run_for_each_seed(tmp_path, capsys):
    flags = ("total_steps=8", "log_every=4", "eval_every=4", "seed=3")
    evals = ("elbo", "pictures")
    states = train(seeds("num_seeds=2", *flags, evals=evals), tmp_path / "all")
    assert {len(leaf) for leaf in jax.tree.leaves(states)} == {2}
    state = train(seeds(*flags[:-1], "seed=4", evals=evals), tmp_path / "one")
    here, there = RunDir(tmp_path / "all/seed_4"), RunDir(tmp_path / "one")
    assert here.config() == there.config()
    assert [here.status()[name] for name in ("state", "step")] == [there.status()[name] for name in ("state", "step")]
    for a, b in zip(here.rows(), there.rows(), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
    assert {file.name for file in here.samples.iterdir()} == {file.name for file in there.samples.iterdir()}
    step, restored, _ = load(here.checkpoints, Program(seeds("seed=4")).abstract)
    assert step == 8
    jax.tree.map(lambda a, b, c: np.testing.assert_array_equal(a, b[1]), restored, states, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), restored, state)

    several, rows = RunDir(tmp_path / "all"), [RunDir(tmp_path / f"all/seed_{n}").rows() for n in (3, 4)]
    assert several.status()["step"] == 8
    for i, row in enumerate(several.rows()):
        values = [seed[i]["test/elbo"] for seed in rows]
        assert row["seeds"] == 2
        assert row["test/elbo"] == pytest.approx(statistics.mean(values))
        assert row["std/test/elbo"] == pytest.approx(statistics.stdev(values))
    table = list(csv.DictReader((tmp_path / "all/seeds.csv").read_text().splitlines()))
    assert [(row["seed"], row["state"], row["step"]) for row in table] == [(s, "done", "8") for s in "34"]
    assert float(table[1]["test/elbo"]) == rows[1][-1]["test/elbo"]
    assert (several.samples / "curves_00000008.png").exists()
    cli.main(["eval", f"--workdir={tmp_path / 'all'}"])
    again = json.loads((tmp_path / "all/seed_4/eval/metrics.jsonl").read_text())
    assert again["test/elbo"] == pytest.approx(there.rows()[-1]["test/elbo"], rel=1e-5)
    (common,) = RunDir(tmp_path / "all/eval").rows()
    assert common["step"] == 8 and common["seeds"] == 2
    for tag in ("test/elbo", "std/test/elbo"):
        assert common[tag] == pytest.approx(several.rows()[-1][tag], rel=1e-4)
    capsys.readouterr()
    cli.main(["compare", "--metric=test/elbo", str(tmp_path / "all")])
    assert f"{common['test/elbo']:.6g}" in capsys.readouterr().out
    cli.main(["sample", f"--workdir={tmp_path / 'all'}", "--n=2", f"--out={tmp_path / 'drawn'}"])
    assert {file.stem for file in (tmp_path / "drawn").iterdir()} == {f"sample_seed_{n}_step8_seed0" for n in (3, 4)}


@pytest.fixture
def compiled():
    """How often each function was compiled since the counter was cleared."""
    count = collections.Counter()

    def listen(event, duration_secs, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            count[kwargs["fun_name"]] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield count
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
def test_nothing_compiles_for_each_seed(tmp_path, compiled):
    counts = []
    for n in (2, 4):
        jax.clear_caches()
        compiled.clear()
        flags = (f"num_seeds={n}", "total_steps=4", "eval_every=2", "save_every=0")
        train(seeds(*flags, evals=("elbo", "pictures")), tmp_path / str(n))
        counts.append(dict(compiled))
    assert counts[0] == counts[1]
    assert [n for name, n in counts[0].items() if "mapped" in name] == [1]


def signal_at(monkeypatch, call):
    original, calls = Seeds.step, []

    def wrapper(self, *args):
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(Seeds, "step", wrapper)


def same_runs(a, b):
    """Rows and last states are equal, bit for bit."""
    for name in (".", "seed_0", "seed_1"):
        assert (a / name / "metrics.jsonl").read_bytes() == (b / name / "metrics.jsonl").read_bytes()
    abstract = Program(seeds()).abstract
    for name in ("seed_0", "seed_1"):
        found = [load(RunDir(folder / name).checkpoints, abstract) for folder in (a, b)]
        assert found[0][0] == found[1][0]
        assert_same(found[0][1], found[1][1])


@pytest.mark.slow
def test_preempted_and_resumes_equals_uninterrupted(tmp_path, monkeypatch):
    train(seeds(*LONG), tmp_path / "whole")
    with monkeypatch.context() as patch:
        signal_at(patch, 5)
        with pytest.raises(Preempted, match=r"seed 0: stopped at step 10; .*; seed 1: stopped at step 10"):
            train(seeds(*LONG), tmp_path / "cut")
    for name in (".", "seed_0", "seed_1"):
        assert RunDir(tmp_path / "cut" / name).status()["state"] == "preempted"
    step_dirs.delete(RunDir(tmp_path / "cut/seed_1").checkpoints, 10)  # as if it had been killed before its save
    train(seeds(*LONG), tmp_path / "cut")
    same_runs(tmp_path / "whole", tmp_path / "cut")
    assert RunDir(tmp_path / "cut").status()["step"] == 12


@pytest.mark.slow
def test_killed_seeds_go_on_bit_for_bit(tmp_path):
    two = ("num_seeds=2",)
    assert gen_jax(VAE, tmp_path / "whole", more=two) == 0
    for where, number in (("seeds", 4), ("save", 2), ("manifest", 3), ("seeds", 3)):
        assert gen_jax(VAE, tmp_path / "killed", where, number, two) == -signal.SIGKILL, where
    assert gen_jax(VAE, tmp_path / "killed", more=two) == 0
    same_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_seed_that_diverges_is_named_and_leaves_the_others_alone(tmp_path, monkeypatch, capsys):
    flags = ("total_steps=8", "log_every=2", "save_every=0", "eval_every=0")
    train(seeds("num_seeds=3", *flags, evals=()), tmp_path / "whole")
    step = Seeds.step

    def diverges(self, state, steps):
        state, metrics = step(self, state, steps)
        loss = metrics["loss"]
        nan = np.array(loss.total)
        nan[1, 1] = np.nan if steps[0] == 4 else nan[1, 1]
        return state, metrics | {"loss": dataclasses.replace(loss, total=jax.device_put(nan))}

    monkeypatch.setattr(Seeds, "step", diverges)
    with pytest.raises(NonFiniteError, match=r"^seed 1: train/loss is nan at step 6, network net; see config"):
        train(seeds("num_seeds=3", *flags, evals=()), tmp_path / "run")
    assert "the others continue" in capsys.readouterr().err
    for name, state in (("seed_0", "done"), ("seed_1", "failed"), ("seed_2", "done"), (".", "failed")):
        assert RunDir(tmp_path / "run" / name).status()["state"] == state
    for name in ("seed_0", "seed_2"):
        whole, run = (RunDir(tmp_path / folder / name).metrics.read_bytes() for folder in ("whole", "run"))
        assert run == whole
    assert [(row["step"], row["seeds"]) for row in RunDir(tmp_path / "run").rows()] == [(2, 3), (4, 3), (6, 2), (8, 2)]


def test_a_seed_whose_evaluator_raises_is_saved_and_leaves_the_others_alone(tmp_path, monkeypatch):
    flags = ("num_seeds=2", "total_steps=8", "log_every=2", "save_every=0", "eval_every=4")
    whole = train(seeds(*flags), tmp_path / "whole")
    evaluate = Loop._evaluate

    def broken(self, state, when):
        if self.experiment.seed == 0:
            raise KeyError("label")
        return evaluate(self, state, when)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_evaluate", broken)
        with pytest.raises(KeyError, match="label") as error:
            train(seeds(*flags), tmp_path / "run")
    assert error.value.__notes__ == ["in the run of seed 0"]
    kept = [step_dirs.available(RunDir(tmp_path / f"run/seed_{seed}").checkpoints) for seed in (0, 1)]
    assert kept == [[4], [4, 8]]
    assert_same(whole, train(seeds(*flags), tmp_path / "run"))


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
