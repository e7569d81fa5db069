"""Progress: what a pipe gets, and when; which metrics a line holds."""

import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gen_jax.io import paths
from gen_jax.runs import progress
from gen_jax.runs.progress import Progress, brief


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = {"s": 0.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: now["s"])
    return now


def test_a_pipe_gets_plain_lines_now_and_then(clock, capsys):
    with Progress("train", 100) as line:
        line.update(0, "compiling ...", at_once=True)
        for second in range(1, 26):
            clock["s"] = float(second)
            line.update(second * 4, f"loss {second}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: step 0/100  - it/s  ETA -  elapsed 0:00  compiling ..."
    assert lines[1] == "train: step 4/100  4 it/s  ETA 0:24  elapsed 0:01  loss 1"
    assert [re.search(r"loss (\d+)", each)[1] for each in lines[1:]] == ["1", "11", "21", "25"]
    assert not any("\x1b" in each or "\r" in each for each in lines)


def test_steps_of_an_earlier_start_do_not_count_towards_the_speed(clock, capsys):
    line = Progress("train", 100)
    line.start(50)
    clock["s"] = 10.0
    line.update(60)
    assert "step 60/100  1 it/s  ETA 0:40" in capsys.readouterr().err


def test_a_line_begins_with_the_losses():
    row = {"train/acc": 0.5, "train/alarm_x": 1.0, "train/disc_grad_norm": 1.0, "train/disc_loss": 2.0}
    row |= {"train/gen_loss": 3.0, "train/net_lr": 0.1, "train/kl": 4.0, "train/rec": 5.0}
    assert brief(row) == "disc_loss 2  gen_loss 3  acc 0.5  kl 4"


def test_the_shorter_path_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.shortest(tmp_path / "runs" / "a") == "runs/a"
    assert paths.shortest("gs://bucket/run") == "gs://bucket/run"
    assert paths.shortest("/x") == "/x"


@pytest.mark.parametrize(("width", "bar"), [(60, False), (160, True)])
def test_a_narrow_terminal_loses_the_bar_and_not_the_name(monkeypatch, width, bar):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Progress("train", 1000) as progress:
        progress.update(500, "loss 100.9  elbo -100.9  kl 0.1808  rec 100.7")
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()).split("\r")[-1]
    assert ("━ train: step 500/1000" in last) == bar
    assert last.startswith("━" if bar else "train: step 500/1000") and ("rec 100.7" in last) == bar


class Notebook:
    """IPython as a kernel has it. `output` is what the cell shows, `updates` how often it was replaced."""

    def __init__(self, **shell):
        self.output, self.updates = [], 0
        self.get_ipython = lambda: SimpleNamespace(**shell)
        self.display = SimpleNamespace(display=self.show)

    def show(self, data, raw, display_id):
        assert raw and display_id
        self.output.append(data["text/plain"])
        return self

    def update(self, data, raw):
        assert raw
        self.output[-1], self.updates = data["text/plain"], self.updates + 1


def test_a_notebook_has_one_line_that_is_replaced(clock, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", notebook := Notebook(kernel="a kernel"))
    with Progress("train", 1000) as progress:
        progress.update(0, "compiling ...", at_once=True)
        assert notebook.output == ["train: step 0/1000  - it/s  ETA -  elapsed 0:00  compiling ..."]
        for step in range(10, 1001, 10):
            clock["s"] = step / 100
            progress.update(step, f"loss {step}")
            if step == 480:
                assert notebook.output == ["train: step 480/1000  100 it/s  ETA 0:05  elapsed 0:05  loss 480"]
        progress.say("step 1000: elbo -20")
        progress.update(1000, "evaluating elbo")
    assert notebook.output == ["train: step 1000/1000  100 it/s  ETA 0:00  elapsed 0:10  loss 1000"]
    assert 30 <= notebook.updates <= 45  # of 102
    assert capsys.readouterr() == ("step 1000: elbo -20\n", "")


def test_ipython_on_a_terminal_is_no_notebook(clock, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", notebook := Notebook())
    with Progress("train", 10) as progress:
        progress.update(10, "loss 1")
    assert not notebook.output and capsys.readouterr().err.endswith("loss 1\n")


def test_work_continues_where_the_reader_of_stderr_is_gone():
    """As after `| head -1`: the first line finds a closed pipe, the process ends with 0."""
    work = "from gen_jax.runs.progress import Progress\nwith Progress('train', 2) as p:\n    p.say('a'); p.update(2)"
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-c", work + "\nprint('done')"], stderr=writing, stdout=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stdout) == (0, b"done\n")


def test_a_command_whose_reader_is_gone_ends_with_141():
    reading, writing = os.pipe()
    os.close(reading)
    command = "from gen_jax.cli import main; main(['data', 'list'])"
    ended = subprocess.run([sys.executable, "-c", command], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")
