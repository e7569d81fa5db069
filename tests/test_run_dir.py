"""What a run directory accepts, refuses, and keeps through kills."""

import errno
import json
import sys
import time

import pytest

from gen_jax.errors import CheckpointError, ConfigError, StorageError
from gen_jax.io.disk import write_atomic
from gen_jax.runs import status, step_dirs
from gen_jax.runs.run_dir import RunDir
from gen_jax.training import same_data

CONFIG = {"seed": 0, "total_steps": 100, "save_every": 10, "model": {"width": 64, "sizes": (1, 2)}, "evals": {}}


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run")
    run.create(CONFIG)
    run.metrics.write_text('{"step": 0}\n')
    return run


def test_create_then_reopen_with_another_length_and_other_periods(run):
    again = RunDir(run.path)
    new = CONFIG | {"total_steps": 200, "save_every": 5}
    assert again.create(new) is True
    assert again.config() == json.loads(json.dumps(new))
    assert run.checkpoints.is_dir() and run.samples.is_dir()


def test_another_config_is_refused_with_every_key_in_one_line(run):
    before = run.config_file.read_bytes()
    other = CONFIG | {"seed": 1, "total_steps": 7, "model": {"width": 32, "sizes": (1, 2), "depth": 2}}
    with pytest.raises(ConfigError) as error:
        RunDir(run.path).create(other)
    message = str(error.value)
    assert "seed was 0, is now 1" in message and "model.width was 64, is now 32" in message
    assert "model.depth was 'absent', is now 2" in message
    assert "total_steps" not in message and "sizes" not in message and "\n" not in message
    assert run.config_file.read_bytes() == before


def test_what_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        RunDir(tmp_path).create(CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="is a file"):
        RunDir(tmp_path / "thesis.tex").create(CONFIG)
    with pytest.raises(ConfigError, match=r"no config\.json"):
        RunDir(tmp_path).config()


def test_a_kill_before_the_config_was_written_leaves_a_usable_directory(tmp_path):
    (tmp_path / ".config.json.tmp").write_text('{"see')
    assert RunDir(tmp_path).create(CONFIG) is False
    assert RunDir(tmp_path).config()["seed"] == 0


def test_check_writes_nothing(tmp_path):
    assert RunDir(tmp_path / "new").check(CONFIG) is False
    assert not (tmp_path / "new").exists()


def test_each_start_is_appended_to_the_manifest(run):
    run.record_start(seed=3)
    run.record_start(seed=3, mesh="data: 8")
    first, second = json.loads(run.manifest_file.read_text())["starts"]
    assert second["mesh"] == "data: 8" and "mesh" not in first
    assert first["command"] == sys.argv and first["seed"] == 3
    assert first["versions"]["jax"] and len(first["devices"]) == 8
    assert "device_count=8" in first["xla_flags"]


def test_status_follows_the_run_and_its_end(run, monkeypatch):
    assert run.status() == {}
    monkeypatch.setattr(status, "BEAT_S", 0.01)
    with run.keep_status() as kept:
        assert (run.status()["state"], run.status()["step"]) == ("running", 0)
        kept.step = 40
        deadline = time.monotonic() + 20
        while run.status()["step"] != 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (run.status()["state"], run.status()["step"]) == ("running", 40)
    assert (run.status()["state"], run.status()["step"]) == ("done", 40)
    with pytest.raises(StorageError), run.keep_status():
        raise StorageError("full")
    assert run.status()["state"] == "failed"


def test_a_full_disk_still_takes_the_status(run, monkeypatch):
    with run.keep_status():
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(type(run.path), "write_bytes", lambda *_: (_ for _ in ()).throw(full))
    assert run.status()["state"] == "done"


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 10**5, '{"state": 3}', '{"state": "done", "step": "x"}'])
def test_a_damaged_status_or_manifest_is_no_status_and_a_new_manifest(run, text):
    run.status_file.write_text(text)
    assert run.status() == {}
    run.manifest_file.write_text(text)
    run.create(CONFIG)
    run.record_start(seed=1)
    assert len(json.loads(run.manifest_file.read_text())["starts"]) == 1
    assert (run.path / "manifest.json.damaged").read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10**5, "config.json is not readable as JSON: found JSON that is nested too deeply"),
        ('{"model": ' * 10**5, "config.json is not readable as JSON: found JSON that is nested too deeply"),
        ("[]", r"config.json is no config: expected an object, found \[\]"),
    ],
)
def test_a_config_that_is_none_is_one_line(run, text, message):
    run.config_file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        run.config()
    assert len(str(caught.value)) < 300


def test_a_dead_run_is_told_from_a_living_one(run, monkeypatch):
    with run.locked():
        with run.keep_status():
            assert run.follow().state() == "running"
        run.status_file.write_text("{")
        assert run.follow().state() == "running"
    assert run.follow().state() == ""
    status.write(run.status_file, status.facts("running", 3))
    assert run.follow().state() == "gone"  # killed: the lock is free
    status.write(run.status_file, status.facts("running", 3) | {"host": "elsewhere"})
    follower = run.follow()
    assert follower.state() == "running"
    now = time.monotonic()
    monkeypatch.setattr(status.time, "monotonic", lambda: now + 60)
    assert follower.state() == "gone"


def test_a_damaged_row_is_named_and_nothing_is_cut(run):
    text = '{"step": 1}\n{"step": 2, "a\n{"step": 3}\n'
    run.metrics.write_text(text)
    for read in (run.rows, lambda: run.truncate_after(3)):
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2 is damaged"):
            read()
    assert run.metrics.read_text() == text
    run.truncate_after(0)
    assert run.metrics.read_text() == ""


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("metrics", lambda run: run.rows()),
        ("metrics", lambda run: run.truncate_after(3)),
        ("metrics", lambda run: step_dirs.settle(run.checkpoints)),
        ("perf", lambda run: run.truncate_after(3)),
        ("data_file", lambda run: same_data.check(run, None, False)),
    ],
)
def test_a_folder_where_a_file_should_be_is_one_line(run, name, read):
    path = getattr(run, name)
    path.unlink(missing_ok=True)
    path.mkdir()
    (run.checkpoints / "3").mkdir()  # without its manifest
    with pytest.raises(StorageError, match=rf"^{path}: cannot be read: Is a directory$"):
        read(run)


@pytest.mark.parametrize("read", [RunDir.is_trained, lambda run: step_dirs.available(run.checkpoints)])
def test_a_file_where_the_checkpoints_should_be_is_one_line(run, read):
    run.checkpoints.rmdir()
    run.checkpoints.touch()
    with pytest.raises(StorageError, match=rf"^{run.checkpoints}: cannot be read: Not a directory$"):
        read(run)


def test_write_atomic_keeps_the_old_file_when_it_fails(run, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(type(run.path), "replace", lambda *_: (_ for _ in ()).throw(full))
    before = run.config_file.read_bytes()
    with pytest.raises(StorageError, match=r"config\.json: No space left on device: 4 bytes needed, [\d,]+ free"):
        write_atomic(run.config_file, "half")
    assert run.config_file.read_bytes() == before
    assert not list(run.path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"step": 1}\n{"step": 2, "a": 0.10}\n{"step": 3}\n', '{"step": 1}\n{"step": 2, "a": 0.10}\n'),
        ('{"step": 1}\n{"step": 2, "a": 0.1', '{"step": 1}\n'),
        ('{"step": 1}\n{"step": 2}', '{"step": 1}\n'),  # whole by chance, but without its end
        ("", ""),
    ],
)
def test_truncation_cuts_later_rows_and_a_torn_last_line(run, text, kept):
    for file in (run.metrics, run.perf):
        file.write_text(text)
    run.truncate_after(2)
    assert run.metrics.read_text() == run.perf.read_text() == kept
    run.truncate_after(-1)
    assert run.metrics.read_text() == ""


def test_a_row_that_is_being_written_is_not_read(run):
    run.metrics.write_text('{"step": 1, "a": 2}\n{"step": 2, "a')
    assert run.rows() == [{"step": 1, "a": 2}]


def test_what_has_not_trained_is_replaced_with_one_line(tmp_path, caplog):
    run = RunDir(tmp_path / "run")
    run.create(CONFIG)
    run.tokenizer_file.write_text("old")
    run.data_file.write_text("{}")
    other = CONFIG | {"seed": 1}
    with run.locked(), pytest.raises(ConfigError, match="seed was 0, is now 1"):
        run.check(other)  # another process may be at its first step
    assert run.check(other) is False and run.config()["seed"] == 0
    assert run.create(other) is False and run.config()["seed"] == 1
    (record,) = caplog.records
    assert "nothing was trained, its config is replaced: seed was 0, is now 1" in record.getMessage()
    assert not run.tokenizer_file.exists() and not run.data_file.exists()
    (run.path / "seed_3" / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(ConfigError, match="seed was 1, is now 2"):
        run.check(CONFIG | {"seed": 2})


def test_an_override_is_recorded_before_the_config_changes(run, monkeypatch):
    sections = {"best": {"metric": "a"}, "optim": {"net": {"lr": 1.0, "b1": 0.9}}, "evals": {"elbo": {"n": 3}}}
    run.config_file.write_text(json.dumps(CONFIG | sections))
    new = CONFIG | {"best": {"metric": "b"}, "optim": {"net": {"lr": 0.5, "b1": 0.9}}}
    with pytest.raises(ConfigError, match=r"optim\.net\.lr was 1\.0, is now 0\.5; .*--override .*init_from"):
        run.check(new)
    other = RunDir(run.path, override=True)
    with pytest.raises(ConfigError) as error:
        other.check(new | {"seed": 1})
    assert "seed was 0, is now 1" in str(error.value) and "optim.net.lr was" not in str(error.value)
    before = run.config_file.read_bytes()
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr("gen_jax.runs.manifest.write_atomic", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(OSError):
            other.create(new)
    assert run.config_file.read_bytes() == before
    assert other.create(new) is True and run.config()["best"] == {"metric": "b"}
    (entry,) = json.loads(run.manifest_file.read_text())["starts"]
    assert entry["override"]["optim.net.lr"] == {"was": 1.0, "is": 0.5}
    assert entry["override"]["best.metric"] == {"was": "a", "is": "b"}
    assert other.create(new) is True and len(json.loads(run.manifest_file.read_text())["starts"]) == 1


def test_a_key_that_an_older_config_lacks_counts_as_its_default(run):
    new = CONFIG | {"clip": 0.0, "profile": {"start": 0}}
    assert run.check(new, {"clip": 0.0, "profile.start": 0}) is True
    with pytest.raises(ConfigError, match=r"clip was 1\.0, is now 0\.0"):
        run.check(new, {"clip": 1.0, "profile.start": 0})
    with pytest.raises(ConfigError, match=r"clip was 'absent', is now 0\.0"):
        run.check(new, {"profile.start": 0})


def test_a_run_of_an_earlier_version_says_its_evaluators_options_in_the_words_of_this_one(tmp_path):
    text = dict(type="text", prompt="a ", n=2, length=400, temperature=0.7, top_k=0, top_p=1.0, min_p=0.0)
    old = dict(
        text=text | dict(repetition_penalty=1.0),
        greedy=dict(type="translation", beams=0, length_penalty=0.6, length=24),
        pictures=dict(type="pictures", n=9, temperature=1.0, label=None),
        mean=dict(type="mean"),
    )
    (tmp_path / "config.json").write_text(json.dumps({"evals": old, "seed": 0}))
    assert RunDir(tmp_path).config() == {
        "evals": dict(
            text=dict(type="text", n=2, sampling=dict(prompts=["a "], length=400, temperature=0.7)),
            greedy=dict(type="translation", sampling=dict(beams=0, length=24, temperature=0.0)),
            pictures=dict(type="pictures", n=9, sampling={}),
            mean=dict(type="mean"),
        ),
        "seed": 0,
    }
