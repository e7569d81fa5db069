"""Workdirs on gs://, against an in-memory store that is spoken to as Google is: the same run, through kills too."""

import importlib.util
import json
import os
import signal
import subprocess
import sys

import fake_gcs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
from etils import epath
from hosts import free_address
from members import ROOT, SMALLEST, assert_same, smoke_spec
from test_distributed import LONG, VAE, is_training
from test_killed import final_state, gen_jax

from gen_jax import cli
from gen_jax.commands.compare import last
from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.io import gcs
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.runs.log import Writer
from gen_jax.runs.restore import load
from gen_jax.runs.run_dir import RunDir
from gen_jax.runs.step_dirs import available

pytest.importorskip("gcsfs", reason="pip install 'gen_jax[gcs]'")
CONFIG = {"seed": 0, "total_steps": 100, "model": {"width": 64}}


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """The objects of gs://bucket: name -> (content, generation)."""
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where a killed run leaves its spool
    gcs._reach.cache_clear()
    with fake_gcs.serving("bucket", "readonly") as (store, variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        gcs.check("gs://bucket")  # as RunDir does first of all
        yield store.buckets["bucket"]


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_the_store_keeps_bytes_and_preconditions(bucket):
    """What the tests below rest on."""
    for content in (b"", b"a\r\n", bytes(range(256)) * 30_000):  # the last in parts
        (epath.Path("gs://bucket") / "file").write_bytes(content)
        assert bucket["file"][0] == content == (epath.Path("gs://bucket") / "file").read_bytes()
    store = ts.KvStore.open({"driver": "gcs", "bucket": "bucket"}).result()
    absent = store.read("new").result().stamp.generation
    written = [store.write("new", value, if_equal=absent).result().generation for value in (b"1", b"2")]
    assert written[0] and not written[1]
    assert bucket["new"][0] == b"1"


def test_the_spool_copies_what_changed_and_begins_with_what_is_there(bucket):
    remote = epath.Path("gs://bucket/run")
    (remote / "metrics.jsonl").write_text("1\n")
    with gcs.opened(remote, ("metrics.jsonl", "perf.jsonl"), True) as (folder, upload):
        assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]
        with open(folder / "metrics.jsonl", "a") as file:
            file.write("2\n")
        (folder / "plugins").mkdir()
        (folder / "plugins" / "trace").write_bytes(b"a")
        assert bucket["run/metrics.jsonl"][0] == b"1\n"
        upload()
        before = dict(bucket)
        assert before["run/metrics.jsonl"][0] == b"1\n2\n" and before["run/plugins/trace"][0] == b"a"
        (folder / "plugins" / "trace").write_bytes(b"ab")
        upload()
        assert bucket["run/metrics.jsonl"] == before["run/metrics.jsonl"]  # not written again
        (folder / "perf.jsonl").write_text("3\n")
    assert bucket["run/perf.jsonl"][0] == b"3\n" and bucket["run/plugins/trace"][0] == b"ab"
    assert not folder.exists()


def test_what_was_written_before_an_error_is_copied_and_only_process_0_copies(bucket):
    remote = epath.Path("gs://bucket/run")
    for uploads in (False, True):
        with pytest.raises(KeyError), gcs.opened(remote, (), uploads) as (folder, _):
            (folder / "perf.jsonl").write_text("3\n")
            raise KeyError
        assert ("run/perf.jsonl" in bucket) == uploads


def test_a_failed_upload_is_an_error_of_its_own_but_never_hides_another(bucket):
    remote = epath.Path("gs://missing/run")
    with (
        pytest.raises(CheckpointError, match="gs://missing/run: the logs were not uploaded: FileNotFoundError"),
        gcs.opened(remote, (), True) as (folder, _),
    ):
        (folder / "perf.jsonl").write_text("3\n")
    with pytest.raises(KeyError), gcs.opened(remote, (), True) as (folder, _):
        (folder / "perf.jsonl").write_text("3\n")
        raise KeyError


@pytest.mark.parametrize(
    ("workdir", "message"),
    [
        ("gs://missing/run", "workdir: expected a bucket that exists, there is no gs://missing"),
        ("gs://denied/run", "workdir: gs://denied cannot be read: OSError: Forbidden"),
        ("s3://bucket/run", "workdir: expected a local path or gs://BUCKET/FOLDER, got s3://bucket/run"),
    ],
)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_workdir_out_of_reach_is_one_line(command, workdir, message, bucket, capsys):
    config = [f"--config={SMALLEST['vae']}:smoke"] if command == "train" else []
    with pytest.raises(SystemExit) as ended:
        cli.main([command, f"--workdir={workdir}", *config])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and message in error


def test_a_workdir_that_cannot_be_written_is_one_line(bucket):
    with pytest.raises(ConfigError, match=r"^workdir: expected a directory that can be written, OSError: Forbidden.*$"):
        RunDir("gs://readonly/run").create(CONFIG)


def test_without_the_extra_one_line_says_what_to_install(bucket, monkeypatch):
    gcs._reach.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^workdir: gs://bucket needs an extra: pip install 'gen_jax\[gcs\]'$"):
        RunDir("gs://bucket/run")


def test_a_sweep_is_local(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", f"--config={SMALLEST['vae']}:smoke", "--workdir=gs://bucket/sweep"])
    assert ended.value.code == 2
    assert (
        capsys.readouterr().err == "gen-jax: --workdir: expected a local directory for a sweep, got gs://bucket/sweep\n"
    )


def test_a_run_directory_there_accepts_and_refuses_what_a_local_one_does(bucket):
    run = RunDir("gs://bucket/run")
    assert run.create(CONFIG) is False
    bucket["run/metrics.jsonl"] = (b'{"step": 0}\n', 1)
    assert RunDir(run.path).create(CONFIG | {"total_steps": 7}) is True
    with pytest.raises(ConfigError, match=r"model\.width was 64, is now 32"):
        run.check(CONFIG | {"model": {"width": 32}})
    with run.locked(), pytest.raises(ConfigError, match="another process is training in gs://bucket/run"):
        RunDir(run.path).locked().__enter__()
    with run.locked():
        pass
    bucket["other/thesis.tex"] = (b"precious", 1)
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        RunDir("gs://bucket/other").create(CONFIG)
    assert sorted(bucket) == ["other/thesis.tex", "run/config.json", "run/manifest.json", "run/metrics.jsonl"]


def test_rows_and_events_reach_it_and_are_cut_when_the_run_resumes(bucket):
    run = RunDir("gs://bucket/run")
    for start, steps in ((0, (1, 2, 3)), (3, (3, 4))):
        with run.spooled(), Writer(run, start) as writer:
            run.truncate_after(start - 1)
            for step in steps:
                writer.write_scalars(step, {"loss": start})
                writer.end_step(step)
            assert len(run.rows()) == steps[-1]
    rows = [json.loads(line) for line in bucket["run/metrics.jsonl"][0].splitlines()]
    assert rows == RunDir(run.path).rows() == run.rows()
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0), (2, 0), (3, 3), (4, 3)]
    assert sum(name.startswith("run/events.out.tfevents.") for name in bucket) == 2


def test_checkpoints_there_survive_what_a_kill_leaves(bucket, caplog):
    folder, state = epath.Path("gs://bucket/run/checkpoints"), {"a": jnp.arange(6.0).reshape(2, 3)}
    abstract, unvouched = jax.eval_shape(lambda: state), []

    def committing():
        unvouched.append([step for step in (1, 2, 3) if f"run/checkpoints/{step}/commit_success.txt" in bucket])
        assert len(unvouched) not in available(folder)

    with Checkpoints(folder, 2, 100, committing) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, jax.tree.map(lambda x: x + step, state), {"step": step})  # noqa: B023
    assert unvouched == [[1], [1, 2], [2, 3]] or unvouched == [[1], [1, 2], [1, 2, 3]]
    assert available(folder) == [2, 3] and not any(name.startswith("run/checkpoints/1") for name in bucket)
    for name in ("3.sha256.json", "3/commit_success.txt"):  # killed while 3 is written, or deleted
        del bucket[f"run/checkpoints/{name}"]
    with Checkpoints(folder, 2, 100) as checkpoints:
        assert not caplog.records and not any("checkpoints/3" in name for name in bucket)
        step, found, loop = checkpoints.restore(abstract)
        np.testing.assert_array_equal(found["a"], state["a"] + 2)
        assert (step, loop) == (2, {"step": 2})
        checkpoints.save(3, state, {})
    name = next(name for name in bucket if name.startswith("run/checkpoints/3/state/ocdbt.process_0/d/"))
    bucket[name] = (bytes([bucket[name][0][0] ^ 1]) + bucket[name][0][1:], 10**6)
    with pytest.raises(CheckpointError, match=r"step 3 cannot be used: .* is damaged"):
        load(folder, abstract, 3)
    with Checkpoints(folder, 2, 100):
        assert available(folder) == [2] and "run/checkpoints/3.damaged/commit_success.txt" in bucket
        assert "is put aside as 3.damaged" in caplog.text


RUN = "gs://bucket/run"


@pytest.mark.slow
def test_a_run_there_equals_a_local_one_through_kills_and_is_read_by_all_commands(bucket, tmp_path):
    path = SMALLEST["vae"]
    assert gen_jax(path, tmp_path / "local") == 0
    local = RunDir(tmp_path / "local")
    for where, number in (("step", 3), ("save", 1), ("upload", 2), ("manifest", 2), ("step", 2)):
        assert gen_jax(path, RUN, where, number) == -signal.SIGKILL, where
    assert gen_jax(path, RUN) == 0
    run = RunDir(RUN)
    assert run.metrics.read_bytes() == local.metrics.read_bytes()
    assert_same(final_state(path, local.path), final_state(path, RUN))
    assert run.status()["state"] == "done" and len(json.loads(run.manifest_file.read_text())["starts"]) > 3
    names = sorted(file.name for file in local.samples.iterdir())
    assert names == sorted(file.name for file in run.samples.iterdir())

    env = {**os.environ, "XLA_FLAGS": ""}
    other = [f"--config={smoke_spec(path)}", "--workdir=gs://bucket/other", f"--config.init_from.workdir={RUN}"]
    for command in (["eval", f"--workdir={RUN}"], ["sample", f"--workdir={RUN}"], ["train", *other]):
        words = [sys.executable, "-m", "gen_jax.cli", *command]
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert RunDir(run.path / "eval").rows()[-1]["test/elbo"] == pytest.approx(local.rows()[-1]["test/elbo"], rel=1e-6)
    assert last(run, "test/elbo")[0] == 24
    assert "run/samples/sample_run_step24_seed0.png" in bucket


@pytest.mark.slow
def test_two_processes_there_save_the_same_step_when_one_is_preempted(bucket):
    address, processes = free_address(), []
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(ROOT)}
    for i in range(2):
        group = [f"--coordinator={address}", "--num_processes=2", f"--process_id={i}"]
        command = [sys.executable, "-m", "gen_jax.cli", "train", VAE, f"--workdir={RUN}", *LONG, *group]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True))
    try:
        is_training(processes[0])
        processes[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=200)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [75, 75], said
    run = RunDir(RUN)
    step = run.status()["step"]
    assert available(run.checkpoints) == [step] and run.status()["state"] == "preempted"
    assert [row["step"] for row in run.rows()] == list(range(200, step + 1, 200))


@pytest.mark.slow
def test_tensorboard_reads_it(bucket):
    """As TensorBoard does without TensorFlow: through fsspec."""
    run = RunDir(RUN)
    with run.spooled(), Writer(run) as writer:
        writer.write_scalars(7, {"loss": 0.5})
    code = (
        "from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer as M;"
        f"m = M().AddRunsFromDirectory({RUN!r}); m.Reload(); print(m.Tensors('.', 'loss')[0].step)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "7\n", done.stderr
