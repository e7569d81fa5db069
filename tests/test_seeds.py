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
from seeds_of import VAE, seeds
from test_killed import gen_jax

from gen_jax import cli
from gen_jax.errors import NonFiniteError, Preempted
from gen_jax.runs import step_dirs
from gen_jax.runs.restore import load
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training.loop import Loop
from gen_jax.training.program import Program
from gen_jax.training.seeds import MAPS, Seeds

ON_INPUTS = "code_prior", "latent_diffusion", "masked_codes", "reflow"  # refuse several seeds
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
@pytest.mark.parametrize("name", sorted(set(SMALLEST) - {"vae", *ON_INPUTS}))
def test_each_seed_of_any_model_equals_its_single_run(name, monkeypatch):
    monkeypatch.delitem(MAPS, "cpu")
    each_is_its_own(SMALLEST[name], 4)


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


@pytest.mark.slow
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
