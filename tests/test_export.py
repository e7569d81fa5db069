"""A trained run in Python and outside of gen_jax: `load`, exported parameters, compiled functions."""

import json
import math
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from members import SMALLEST, assert_same, smoke
from safetensors.numpy import load_file

import gen_jax
from gen_jax import cli
from gen_jax.core.state import path_name
from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.runs import model_card
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training import export, trained

# refuses every import of gen_jax, also through an editable install
OUTSIDE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "gen_jax":
            raise ImportError("gen_jax is refused")
sys.meta_path.insert(0, Refuse())
sys.path[:] = [path for path in sys.path if not path.endswith(("/wt", "gen_jax"))]
try:
    import gen_jax
except ImportError:
    pass
else:
    raise SystemExit("gen_jax was imported")
import numpy as np
"""


def outside(code, folder):
    """Runs it in a process that cannot import gen_jax; what it prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", OUTSIDE + code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def usage(folder):
    """The Python of the model card."""
    return (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "run"
    train(smoke(SMALLEST["vae"], "evals.log_likelihood.when=always"), path)
    return path


@pytest.fixture(scope="module")
def run(workdir):
    return gen_jax.load(workdir)


def test_a_run_is_loaded_and_sampled_as_by_the_command(run, workdir, tmp_path):
    assert (run.step, int(run.state.step), run.config.model_name) == (8, 8, "vae")
    assert "run" in repr(run) and type(run.model).__name__ == "VAE"
    cli.main(["sample", f"--workdir={workdir}", "--n=5", "--seed=3", "--temperature=0.5", f"--out={tmp_path}"])
    with np.load(tmp_path / "sample_run_step8_seed3.npz") as file:
        assert_same(run.sample(5, seed=3, temperature=0.5), file["samples"])
    assert (run.sample(5, seed=3) != run.sample(5, seed=4)).any()
    with pytest.raises(ConfigError, match=r"sample\.temprature: unknown key; did you mean temperature\?"):
        run.sample(1, temprature=1.0)


def test_a_run_gives_its_curves(run, workdir):
    rows = RunDir(workdir).rows()
    steps, values = run.curve("train/loss")
    assert steps.tolist() == [4, 8] and values.tolist() == [row["train/loss"] for row in rows]
    assert run.curve("test/elbo")[0].tolist() == [8]
    with pytest.raises(ConfigError, match=r"curve: .* got 'train/los'; did you mean train/loss\?"):
        run.curve("train/los")


def test_a_run_gives_its_examples(run):
    images = run.program.dataset.contents("test")["image"]
    batches = list(run.batches("test"))
    found = np.concatenate([np.asarray(batch["image"])[batch["valid"]] for batch in batches])
    assert_same(found, images)
    assert len(batches) * 64 > len(images) and run.tokenizer is None
    with pytest.raises(ConfigError, match="split: expected one of"):
        next(run.batches("tset"))


def test_a_notebook_shows_a_state_in_one_line(run):
    shown = []
    run.state._repr_pretty_(SimpleNamespace(text=shown.append), False)
    size = sum(leaf.size for leaf in jax.tree.leaves(run.state.nets["net"].params))
    assert shown == [f"State(step=8, net: {size:,} parameters)"]


@pytest.mark.parametrize(
    "n, asked, says",
    [
        (0, {}, r"sample\.n: expected at least 1 and at most 1048576, got 0"),
        (True, {}, r"sample\.n: expected at least 1"),
        (1, {"seed": -1}, r"sample\.seed: expected at least 0 and at most 4294967295, got -1"),
        (1, {"temperature": "warm"}, r"sample\.temperature: expected a number, got 'warm'"),
        (1, {"label": 3}, r"sample\.label: "),
    ],
)
def test_wrong_arguments_of_sample_are_one_line(run, n, asked, says):
    with pytest.raises(ConfigError, match=says):
        run.sample(n, **asked)


def test_what_is_no_run_is_one_line(workdir, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "none", str(tmp_path / "file"), tmp_path):
        with pytest.raises(ConfigError, match=r"workdir: expected a run, found no config\.json in "):
            gen_jax.load(place)
    for text, says in (
        ("{", "not readable as JSON"),
        ("[]", "is no config"),
        ("{}", "is no config: expected integers seed"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=says):
            gen_jax.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        cli.main(["sample", f"--workdir={tmp_path}"])
    assert ended.value.code == 2
    RunDir(tmp_path / "half").create(RunDir(workdir).config())  # as a kill before the first checkpoint leaves it
    with pytest.raises(CheckpointError, match="half"):
        print(gen_jax.load(tmp_path / "half").state)
    with pytest.raises(ConfigError, match='step: expected "latest", "best" or a number, found'):
        print(gen_jax.load(workdir, "newest").state)


def test_a_run_is_loaded_on_other_devices_than_it_was_trained_on(workdir, tmp_path):
    kept = {"platform": "gpu", "parallel": "pmap", "mesh": {"data": 512, "fsdp": 1, "model": 1}}
    RunDir(tmp_path).create(RunDir(workdir).config() | kept)
    found = trained.experiment_of(RunDir(tmp_path))
    assert (found.platform, found.parallel, found.mesh.data) == ("any", "jit", 1)
    assert found.mesh.fsdp == math.gcd(jax.device_count(), found.batch_size, found.eval_batch_size)


def test_a_run_is_evaluated_as_in_training(run, workdir):
    last = RunDir(workdir).rows()[-1]
    found = run.evaluate("elbo")
    names = ("elbo", "kl", "loss", "rec", "bits_per_dim", "posterior_collapse")
    assert found.keys() == {f"test/{name}" for name in names}
    assert found == pytest.approx({tag: last[tag] for tag in found}, rel=1e-5)
    with pytest.raises(ConfigError, match=r"config\.evals\.elb: unknown evaluator; did you mean elbo\?"):
        run.evaluate("elb")


def exported(run_or_dir, folder, *flags):
    cli.main(["export", f"--workdir={run_or_dir}", f"--out={folder}", *flags])
    return folder


@pytest.mark.parametrize("live", [False, True])
def test_parameters_are_read_without_gen_jax(run, workdir, tmp_path, live):
    folder = exported(workdir, tmp_path, *["--live"] * live)
    net = run.state.nets["net"]
    tree = {"params": net.params} if live else {"params": net.averaged["params"]}
    want = {f"net/{path_name(path)}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    found = load_file(folder / "model.safetensors")
    assert found.keys() == want.keys()
    assert_same(found, {name: np.asarray(leaf) for name, leaf in want.items()})
    code = usage(folder) + "\nimport json; print(json.dumps({k: float(v.sum()) for k, v in tensors.items()}))"
    assert outside(code, folder) == pytest.approx({name: float(value.sum()) for name, value in found.items()}, rel=1e-6)


def test_averages_differ_from_live_parameters(run):
    averaged, live = (export.tensors(run.state, flag) for flag in (True, False))
    assert any((averaged[name] != live[name]).any() for name in live)


def stored(folder, name):
    return jax.export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))


def test_a_compiled_sampler_runs_without_gen_jax(run, workdir, tmp_path):
    folder = exported(workdir, tmp_path, "--format=stablehlo", "--n=6", "--platforms=cpu,cuda,tpu")
    found = outside(usage(folder) + "\nimport json; print(json.dumps(np.asarray(result).tolist()))", folder)
    np.testing.assert_allclose(np.asarray(found), run.sample(6, seed=0).astype(int), atol=1)
    assert stored(folder, "sample").platforms == ("cpu", "cuda", "tpu")
    assert "a function for cpu, cuda, tpu, 6 rows a call" in (folder / "README.md").read_text()


def test_a_compiled_log_likelihood_runs_without_gen_jax(run, workdir, tmp_path):
    folder = exported(workdir, tmp_path, "--format=stablehlo", "--function=log_prob", "--n=3")
    code = usage(folder) + "\nimport json; print(json.dumps(np.asarray(result).tolist()))"
    batch = {"image": jnp.zeros((3, 8, 8, 1), jnp.uint8), "index": jnp.zeros(3, jnp.int32)}
    assert stored(folder, "log_prob").platforms == (jax.default_backend(),)
    want = run.model.log_prob(run.state, batch, jax.random.key(0), export.LOG_PROB_SAMPLES)
    np.testing.assert_allclose(outside(code, folder), want, rtol=1e-4)


def test_the_card_says_what_it_is(run, workdir, tmp_path):
    card = (exported(workdir, tmp_path) / "README.md").read_text()
    rows = RunDir(workdir).rows()[-1]
    assert f"| `test/elbo` | {rows['test/elbo']:.6g} |" in card
    data = json.loads((workdir / "data.json").read_text())["fingerprint"]
    assert f"| `contents of test` | {data['contents of test']} |" in card
    assert f"| `jax` | {jax.__version__} |" in card and "## Intended use" in card
    assert json.loads(card.split("```json\n")[1].split("```")[0]) == RunDir(workdir).config()
    assert model_card.metrics(RunDir(workdir), 7) == {}
    RunDir(tmp_path / "run").create(RunDir(workdir).config())
    for folder, value in ((tmp_path / "run", 1.0), (tmp_path / "run/eval", 2.0)):
        folder.mkdir(exist_ok=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 8, "train/loss": 3.0, "test/elbo": value}) + "\n")
    assert model_card.metrics(RunDir(tmp_path / "run"), 8) == {"test/elbo": "2"}


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(argv))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    return error


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"starts": 3}', '{"starts": [{"versions": 3}]}'])
def test_a_damaged_manifest_has_no_versions(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json is not readable"):
        model_card._versions(RunDir(tmp_path))


def test_nothing_is_overwritten_unasked(workdir, tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    flags = ("export", f"--workdir={workdir}", f"--out={tmp_path}")
    assert "README.md exists; pass --overwrite" in fails(capsys, *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"
    cli.main([*flags, "--overwrite"])
    assert (tmp_path / "README.md").read_text().startswith("# vae: run")


def test_of_several_seeds_one_is_exported(run, workdir, tmp_path, capsys):
    RunDir(tmp_path / "many").create(RunDir(workdir).config() | {"num_seeds": 2})
    shutil.copytree(workdir, tmp_path / "many/seed_1")
    folder = exported(tmp_path / "many", tmp_path / "out", "--seed=1")
    assert_same(load_file(folder / "model.safetensors"), export.tensors(run.state))
    assert (folder / "README.md").read_text().startswith("# vae: seed_1")
    for flags in ((), ("--seed=2",)):
        said = fails(capsys, "export", f"--workdir={tmp_path}/many", f"--out={tmp_path}/new", *flags)
        assert f"--seed: expected one of 0, 1, the seeds of {tmp_path}/many, got " in said


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--n=3",), "--n: expected none beside --format=safetensors"),
        (("--format=stablehlo", "--n=0"), "--n: expected at least 1 and at most 1048576, got 0"),
        (
            ("--format=stablehlo", "--n=1048577"),
            "--n: expected at least 1 and at most 1048576, got 1048577",
        ),
        (("--platforms=cpu",), "--platforms: expected none beside --format=safetensors"),
        (
            ("--format=stablehlo", "--platforms=cpu,gpu"),
            "--platforms: expected some of cpu, cuda, rocm, tpu, got 'gpu'",
        ),
        (("--format=stablehlo", "--platforms="), "--platforms: expected some of cpu, cuda, rocm, tpu, got ''"),
        (("--format=stablehlo", "--platforms=tpu,tpu"), "--platforms: expected each name once, got tpu,tpu"),
        (("--seed=0",), "--seed: expected none, "),
        (("--format=huggingface",), "--format: expected the model transformer for huggingface, got vae"),
        (("--function=log_prob",), "--function: expected none beside --format=safetensors"),
        (("--format=stablehlo", "--step=99"), None),
    ],
)
def test_wrong_flags_are_one_line(workdir, tmp_path, flags, says, capsys):
    argv = ("export", f"--workdir={workdir}", f"--out={tmp_path}/new", *flags)
    if says is None:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(argv))
        assert ended.value.code == 4
    else:
        assert says in fails(capsys, *argv)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_used_is_one_line(workdir, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    argv = ("export", f"--workdir={workdir}")
    assert f"--out: expected a folder, {tmp_path}/file is a file" in fails(capsys, *argv, f"--out={tmp_path}/file")
    assert "--out: expected a directory that can be made" in fails(capsys, *argv, f"--out={tmp_path}/file/new")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "--out: expected a directory that can be written" in fails(capsys, *argv, f"--out={tmp_path}")
