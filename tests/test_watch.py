"""The watch of several processes, beat by beat, over a store in memory."""

import contextlib
import itertools
import os
import subprocess
import sys
import time
import types

import pytest
from members import ROOT, SMALLEST, smoke

from gen_jax import train
from gen_jax.parallel import watchdog
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.runs.run_dir import RunDir
from gen_jax.training import loop, supervisor
from gen_jax.training.program import Program

LIMIT_S = 6.0


class Store(dict):
    """The part of jax's store that is used."""

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self
        self[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.items() if key.startswith(folder)]


@pytest.fixture
def started(monkeypatch):
    """Watches of three processes before their first beat, without their threads."""
    store, found = Store(), []
    for rank in range(3):
        state = types.SimpleNamespace(client=store, process_id=rank, num_processes=3)
        monkeypatch.setattr(watchdog, "global_state", state)
        found.append(watchdog._Watch(0.0, lambda: None))
        monkeypatch.setattr(found[-1].thread, "start", lambda: None)
        found[-1].start()
    return found


@pytest.fixture
def three(started):
    beat(started, started)
    return started


def test_who_dies_before_its_first_beat_is_named(started):
    assert beat(started[:2], times=11) == ["process 2 died: no heartbeat for 10 s"] * 2


def beat(watches, moving=(), times=5):
    """What each of the watches says at last."""
    for _ in range(times):
        for each in moving:
            each.heartbeat()
        said = [each.tick() for each in watches]
    return said


def test_nothing_is_said_of_processes_that_report(three):
    assert beat(three, three, times=50) == [None] * 3
    assert beat(three, times=50) == [None] * 3  # without a limit one may stand still


def test_who_is_silent_is_named_to_all(three):
    verdict = "process 2 died: no heartbeat for 10 s"
    assert beat(three[:2], times=10) == [None, None]  # process 0 reads before process 2 reports
    assert beat(three[:2], times=1) == [verdict, verdict]


def test_after_an_error_the_silent_one_is_named_earlier(three):
    three[0].alarmed = True
    assert beat(three[:2], times=6) == ["process 2 died: no heartbeat for 5 s"] * 2


def test_the_silence_of_process_0_is_seen_by_the_others(three):
    assert beat(three[1:], times=10)[0] == "process 0 died: no heartbeat for 10 s"


def test_who_has_left_may_be_silent(three):
    three[2].leave(watchdog.LEFT)
    assert beat(three[:2], times=50) == [None, None]


def test_an_error_of_another_is_the_cause_only_where_there_is_one_here(three):
    """All may end of the same error, and process 0 be writing still; for some time."""
    three[2].leave(f"{watchdog.LEFT}: DataError: no file")
    assert beat(three[:2], times=25) == [None, None]
    three[0].alarmed = True
    assert beat(three[:2], times=1) == ["process 2 died: DataError: no file"] * 2


def test_who_waits_long_for_one_that_failed_is_told(three):
    three[2].leave(f"{watchdog.LEFT}: OSError: disk full")
    assert beat(three[:2], times=29) == [None, None]
    assert beat(three[:2], times=2) == ["process 2 died: OSError: disk full"] * 2


@pytest.mark.parametrize("late", [0, 2])
def test_who_has_not_come_to_its_watch_yet_may_take_its_time(three, late):
    """Its data may load slowly."""
    for each in three:
        each.client.clear()
        each.seen = {rank: watchdog._Seen("", "", each.beat, each.beat) for rank in range(3)}
    here = [each for each in three if each.rank != late]
    assert beat(here, times=50) == [None, None]
    assert beat(three, times=2) == [None] * 3
    assert f"process {late} died" in beat(here, times=11)[0]


def test_of_those_that_stand_still_the_one_that_moved_least_is_named(three):
    for each in three:
        each.limit_s = LIMIT_S
    beat(three, three, times=1)
    beat(three, [three[0], three[2]], times=2)  # the others run into what they wait for a little later
    assert beat(three, times=4) == [None] * 3
    assert beat(three, times=1) == ["process 1 made no progress for 6 s (config.hang_limit_s)"] * 3


def test_a_workdir_that_hangs_keeps_no_process(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(watchdog, "BEAT_S", 0.01)
    monkeypatch.setattr(watchdog.os, "_exit", ended.append)
    watchdog._Watch(0.0, lambda: time.sleep(60))._end("process 1 died")
    assert ended == [76]
    assert capsys.readouterr().err == f"{watchdog.last_line('process 1 died')}\n"


def test_whatever_takes_long_begins_after_a_sign_of_life(tmp_path, monkeypatch):
    """So the limit need not cover two of them: steps, an evaluator, a save, the end of the save before it."""
    done = []

    @contextlib.contextmanager
    def watched(*_):
        yield lambda: done.append("moved")

    def noted(owner, name):
        original = getattr(owner, name)

        def wrapper(*args):
            done.append(name)
            return original(*args)

        monkeypatch.setattr(owner, name, wrapper)

    monkeypatch.setattr(supervisor, "watched", watched)
    for owner, name in ((Program, "step"), (loop, "write_report"), (Checkpoints, "save"), (Checkpoints, "wait")):
        noted(owner, name)
    train.train(smoke(SMALLEST["vae"], "save_every=4"), tmp_path / "run")
    assert done.count("write_report") > 1 and done.count("save") > 1
    pairs = {pair for pair in itertools.pairwise(done) if "moved" not in pair}
    assert pairs == {("save", "wait"), ("wait", "wait")}  # `save` waits for the last; `close` once more
    assert done[-3:] == ["moved", "wait", "wait"]


@pytest.mark.slow
def test_a_save_that_hangs_ends_with_all_stacks(tmp_path):
    limit_s = 30  # longer than compiling
    flags = [f"--workdir={tmp_path / 'run'}", f"--config.hang_limit_s={limit_s}", "--config.save_every=4"]
    command = [sys.executable, "tests/killed.py", "sleep_in_save", "1", "train", f"--config={SMALLEST['vae']}:smoke"]
    env = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run([*command, *flags], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 76, done.stderr
    assert f"process 0 made no progress for {limit_s} s (config.hang_limit_s)" in done.stderr
    assert "in asleep" in done.stderr and "in wait" in done.stderr
    assert RunDir(tmp_path / "run").status()["state"] == "lost"
