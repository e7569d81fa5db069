"""The commands as a user types them, in this process: output, files, and one line with exit code 2 for wrong input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from members import SMALLEST

import gen_jax
from gen_jax import cli
from gen_jax.errors import CheckpointError, DataError
from gen_jax.io import paths
from gen_jax.runs.run_dir import RunDir

TEXT = ("--config=experiments/transformer/bench.py:smoke", "--config.mesh.data=1")
DIGITS = f"--config={SMALLEST['vae']}:smoke"


def fails(capsys, code, *argv):
    """The one line on stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(argv))
    assert ended.value.code == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("cli") / "run"
    cli.main(["train", DIGITS, f"--workdir={workdir}", "--config.mesh.data=1"])
    return workdir


def test_train_ends_by_naming_numbers_pictures_and_tensorboard(trained, capsys):
    cli.main(["train", DIGITS, f"--workdir={trained}", "--config.mesh.data=1"])
    out = capsys.readouterr().out
    assert "test/elbo -" in out
    for kind in ("reconstruction", "samples", "interpolation"):
        assert f"test_{kind}_00000008.png" in out
    assert f"tensorboard --logdir={paths.shortest(trained)}" in out
    assert (trained / "samples/curves_00000008.png").exists()


def test_eval_repeats_the_last_evaluation_and_adds_evaluators(trained, capsys):
    cli.main(["eval", f"--workdir={trained}", "--config.evals.speed.type=speed", "--config.evals.speed.n=4"])
    want = {k: v for k, v in RunDir(trained).rows()[-1].items() if k.startswith("test/")}
    want |= {"step": 8, "test/network_evaluations": 1}
    assert RunDir(trained / "eval").rows()[-1] == pytest.approx(want, rel=1e-5)
    assert "step 8" in capsys.readouterr().out
    cli.main(["compare", "--table", str(trained)])
    head, row = (line.split() for line in capsys.readouterr().out.replace(",", "").splitlines()[:2])
    assert head[:3] == ["run", "model", "conditioned"] and head[-2:] == ["samples_per_s", "network_evaluations"]
    assert row[:2] == ["run", "vae"] and int(row[3]) > 1000 and float(row[4]) > 0 and row[6] == "estimate"
    assert float(row[-2]) > 0 and row[-1] == "1"


def test_eval_takes_flags_of_evaluators_alone(trained, capsys):
    argv = ["eval", f"--workdir={trained}"]
    assert "--config.model.latent: expected a key of config.evals" in fails(capsys, 2, *argv, "--config.model.latent=3")
    assert "did you mean speed?" in fails(capsys, 2, *argv, "--config.evals.x.type=sped")


def test_eval_watch_ends_with_the_run(trained, capsys):
    cli.main(["eval", f"--workdir={trained}", "--watch"])
    assert "step 8" in capsys.readouterr().out


def test_eval_watch_takes_no_step(trained, capsys):
    argv = ("eval", f"--workdir={trained}", "--watch", "--step=8")
    assert "--step: expected none beside --watch" in fails(capsys, 2, *argv)


def test_a_run_is_loaded_at_the_step_and_with_the_data_that_it_says(trained, tmp_path):
    with pytest.raises(CheckpointError, match="names no best step"):
        print(gen_jax.load(trained, "best").step)
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    known = json.loads((other / "data.json").read_text())
    known["fingerprint"]["contents of test"] = "another"
    (other / "data.json").write_text(json.dumps(known))
    with pytest.raises(DataError, match="contents of test"):
        gen_jax.load(other)
    assert gen_jax.load(other, accept_data=True).step == 8


def test_sample_writes_named_files_and_numbers_the_next(trained, capsys, tmp_path, written):
    argv = ["sample", f"--workdir={trained}", "--n=9", "--seed=4", f"--out={tmp_path}"]
    cli.main(argv)
    stem = tmp_path / "sample_run_step8_seed4"
    assert capsys.readouterr().out.strip() == f"{stem}.png"
    with np.load(f"{stem}.npz") as file:
        assert file["samples"].shape == (9, 8, 8, 1)
    before = Path(f"{stem}.png").read_bytes()
    cli.main([*argv, "--temperature=0"])
    assert capsys.readouterr().out.strip() == f"{stem}-2.png"
    assert Path(f"{stem}.png").read_bytes() == before != Path(f"{stem}-2.png").read_bytes()
    assert list(written) == ["Samples of run at step 8"]


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--top_k=3", "--top_k: the model vae has no such option; "),
        ("--top_p=1", "--top_p: the model vae has no such option; "),
        ("--repetition_penalty=2", "--repetition_penalty: the model vae has no such option; "),
        ("--length=7", "--length: the model vae has no such option; "),
        ("--beams=2", "--beams: the model vae has no such option; "),
        (
            "--prompt=a",
            "--prompt: the model vae has no such option; known: accept_data, images, label, n, out",
        ),
    ],
)
def test_a_flag_that_a_model_does_not_read_is_refused(trained, flag, says, capsys):
    assert says in fails(capsys, 2, "sample", f"--workdir={trained}", flag)


def test_out_must_be_a_directory(trained, capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "--out: expected a directory" in fails(capsys, 2, "sample", f"--workdir={trained}", f"--out={tmp_path}/file")
    assert (tmp_path / "file").read_text() == "mine"


def test_check_prints_config_parameters_and_memory(capsys):
    cli.main(["check", DIGITS, "--config.mesh.data=1"])
    out = capsys.readouterr().out
    assert json.loads(out[: out.index("\n}") + 2])["model_name"] == "vae"
    assert "net/encoder/MLP_0/Dense_0/kernel" in out
    assert "parameters: " in out and "memory on each device: state " in out


@pytest.mark.parametrize(("name", "tokens"), [("bench", 3), ("digits_pixels", 64)])
def test_bench_of_sampling_counts_tokens(name, tokens, capsys):
    flags = ("--sample=3", "--n=2", "--seconds=0.1", "--config.mesh.data=1")
    cli.main(["bench", f"--config=experiments/transformer/{name}.py:smoke", *flags])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["steps"] >= 1
    assert found["tokens_per_s"] == pytest.approx(2e3 * tokens / found["ms_per_step"], rel=0.01)


def test_bench_ends_with_one_json_line(capsys):
    cli.main(["bench", DIGITS, "--seconds=0.2", "--config.mesh.data=1"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    keys = {"ms_per_step", "examples_per_s", "gflop_per_step", "params", "first_step_s", "peak_memory_mb"}
    assert keys <= result.keys()
    assert all(result[key] > 0 for key in keys)


def test_data_lists_and_shows(capsys, tmp_path, written, figures):
    cli.main(["data", "list"])
    assert "digits" in capsys.readouterr().out
    cli.main(["data", "show", "digits", f"--out={tmp_path / 'd.png'}"])
    assert "(8, 8, 1)" in capsys.readouterr().out
    assert (tmp_path / "d.png").stat().st_size > 1000
    assert {*written} == {"digits, train", *"0123456789"} and sum(map(len, written.values())) == 64 + 1
    for name in ("gaussians", "ar"):
        cli.main(["data", "show", name, "--split=test", f"--out={tmp_path / name}.png"])
    points, series = figures
    assert points.axes[0].get_title() == "gaussians, test" and series.get_suptitle() == "ar, test"
    assert len(series.axes[0].lines) == 5


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "required: --config, --workdir"),
        (["train", DIGITS, "--workdir=/nowhere", "--confg.seed=1"], "unknown argument --confg.seed=1"),
        (["train", "--config=nowhere.py", "--workdir=/nowhere"], "no file nowhere.py"),
        (["train", DIGITS, "--workdir=/nowhere", "--config.model.latent=0"], "config.model.latent: expected"),
        (["train", DIGITS, "--workdir=/nowhere", "--config.platform=tpu"], "config.platform: expected tpu"),
        (["eval", "--workdir=/nowhere"], "found no config.json"),
        (["eval", "--workdir=/no\nwhere"], "found no config.json"),
        (["eval", "--workdir=/nowhere", "--num_processes=1000000"], "--num_processes: expected at most 64"),
        (["eval", "--workdir=/nowhere", f"--num_processes={10**30}"], "--num_processes: expected at most 4294967295"),
        (["sample", "--workdir=/nowhere", "--n=" + "x" * 50_000], "characters)"),
        (["sample", "--workdir=/nowhere", "--n=0"], "--n: expected at least 1"),
        (["sample", "--workdir=/nowhere", "--n=abc"], "--n: expected an integer, got 'abc'"),
        (["bench", DIGITS, "--seconds=soon"], "--seconds: expected a number, got 'soon'"),
        (["sample", "--workdir=~nosuchuser/run"], "--workdir: expected a path, there is no home folder of ~nosuchuser"),
        (["sample", "--workdir="], "--workdir: expected a path, got ''"),
        (["check", "--config=~nosuchuser/c.py"], "--config: expected a path"),
        (["bench", DIGITS, "--seconds=-1"], "--seconds: expected a positive number"),
        (["bench", DIGITS, "--sample=0"], "--sample: expected at least 1"),
        (["bench", *TEXT, "--sample=16777216", "--n=1048576"], "--sample: expected what fits the memory of a device"),
        (["bench", *TEXT, "--sample=100000", "--n=1048576"], "--n: expected what fits the memory of a device"),
        (["bench", *TEXT, "--sample=3", "--n=1048577"], "--n: expected at least 1 and at most 1048576, got 1048577"),
        (["bench", DIGITS, "--n=5"], "--n: expected none without --sample"),
        (["bench", DIGITS, "--sample=8"], "--sample: expected a model of tokens, vae is none"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(argv, says, capsys):
    assert says in fails(capsys, 2, *argv)


def test_alone_it_prints_help_and_its_version(capsys):
    for argv, says in (([], "train a config"), (["--version"], "gen_jax 0.")):
        with pytest.raises(SystemExit) as ended:
            cli.main(argv)
        assert ended.value.code == 0
        assert says in capsys.readouterr().out


def test_check_names_what_differs_from_the_defaults(capsys):
    cli.main(["check", DIGITS, "--config.mesh.data=1", "--config.optim.net.clip=0.5"])
    out = capsys.readouterr().out
    changed = out[out.index("differs from the defaults:") :]
    assert "config.optim.net.clip = 0.5  (default: 0.0)" in changed
    assert "config.optim.net.b1" not in changed and "config.total_steps" not in changed


def test_compare_has_a_header_and_names_what_differs(trained, capsys, tmp_path):
    other = tmp_path / "other"
    cli.main(["train", DIGITS, f"--workdir={other}", "--config.mesh.data=1", "--config.seed=3"])
    capsys.readouterr()
    cli.main(["compare", "--metric=test/elbo", str(trained), str(other)])
    table, _, unlike = capsys.readouterr().out.partition("configs differ in\n")
    assert table.split()[:2] == ["run", "step"]
    assert unlike.split() == ["seed", "0", "3"]
    assert "did you mean test/elbo?" in fails(capsys, 2, "compare", "--metric=test/elb", str(trained))


def test_a_missing_data_set_is_code_5_and_says_what_to_run(capsys, tmp_path):
    argv = ["train", "--config=experiments/vae/mnist.py", "--workdir=/nowhere", f"--config.data.data_dir={tmp_path}"]
    assert "gen-jax data prepare mnist" in fails(capsys, 5, *argv)


def test_a_missing_checkpoint_is_code_4(capsys, trained):
    assert "step 99" in fails(capsys, 4, "sample", f"--workdir={trained}", "--step=99")


PROGRAMS_IN_FLIGHT = """
from gen_jax import cli
cli._prepare_jax(deterministic=False)
import jax
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.sharding.Mesh(jax.devices(), ("data",))
def add(tree):
    return jax.tree.map(lambda x: x + jax.lax.psum(x, "data"), tree)
add = jax.jit(jax.shard_map(add, mesh=mesh, in_specs=P("data"), out_specs=P("data")))
tree = jax.device_put([jax.numpy.zeros((8, 64, 64)) for _ in range(30)], NamedSharding(mesh, P("data")))
for _ in range(300):
    tree = add(tree)
jax.block_until_ready(tree)
"""


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        ("--xla_force_host_platform_device_count=8", {}),
        pytest.param("", {"JAX_NUM_CPU_DEVICES": "8", "NPROC": "2"}, marks=pytest.mark.slow),
    ],
)
def test_programs_in_flight_on_virtual_devices_do_not_starve_each_other(flags, env):
    """Without threads enough a collective waits for one that waits for a thread, until XLA aborts."""
    env |= {"XLA_FLAGS": f"{flags} --xla_cpu_collective_call_terminate_timeout_seconds=10"}
    env = {name: value for name, value in os.environ.items() if name != "NPROC"} | env
    done = subprocess.run([sys.executable, "-c", PROGRAMS_IN_FLIGHT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 36.4 TiB"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")],
)
def test_out_of_memory_is_one_line(error, capsys):
    with pytest.raises(SystemExit) as ended, cli.reported():
        raise error
    line = capsys.readouterr().err
    assert ended.value.code == 2 and len(line.splitlines()) == 1
    assert line.startswith("gen-jax: out of memory") and str(error) in line
