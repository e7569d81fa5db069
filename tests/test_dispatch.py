"""What a run compiles and reads on the host: nothing between two logs, nothing after the first round."""

import jax
import numpy as np
import pytest
from trainings import LONG, digits

from gen_jax.runs import plots
from gen_jax.runs.run_dir import RunDir
from gen_jax.train import train
from gen_jax.training.feeder import Feeder
from gen_jax.training.program import Program


def test_metrics_do_not_depend_on_steps_per_call(tmp_path):
    train(digits("steps_per_call=1"), tmp_path / "one")
    train(digits("steps_per_call=4"), tmp_path / "four")
    one, four = RunDir(tmp_path / "one").rows(), RunDir(tmp_path / "four").rows()
    for a, b in zip(one, four, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


class Watched:
    """An array that counts its readings."""

    def __init__(self, array, reads):
        self.array, self.reads = array, reads

    def __array__(self, *args, **kwargs):
        self.reads.append(1)
        return np.asarray(self.array)


def watch(monkeypatch):
    """Counts at each dispatch how often step results were read on the host."""
    step, leave, reads, seen = Program.step, Program.leave, [], {}

    def unwatched(tree):
        return jax.tree.map(lambda x: x.array if isinstance(x, Watched) else x, tree)

    def watched_step(self, state, number):
        seen[number] = len(reads)
        return jax.tree.map(lambda x: Watched(x, reads), step(self, unwatched(state), number))

    monkeypatch.setattr(Program, "step", watched_step)
    monkeypatch.setattr(Program, "leave", lambda self, state: leave(self, unwatched(state)))
    return seen


def test_the_loop_reads_nothing_between_logs(tmp_path, monkeypatch):
    seen = watch(monkeypatch)
    train(digits(*LONG, "log_every=8", "save_every=0"), tmp_path / "run")
    assert seen[0] == seen[2] == seen[4] == seen[6] == 0
    assert seen[8] == seen[10] == seen[14] > 0


def test_the_watch_sees_a_read(tmp_path, monkeypatch):
    """The test above can fail: logging each step reads each step."""
    seen = watch(monkeypatch)
    train(digits(*LONG, "log_every=2", "save_every=0"), tmp_path / "run")
    assert seen[2] < seen[4] < seen[6]


@pytest.fixture
def compilations(monkeypatch):
    """Program.step number -> compilations until it was called."""
    count, seen, step = [], {}, Program.step

    def listen(event, _, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            count.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)

    def counted(self, state, number):
        seen[number] = len(count)
        return step(self, state, number)

    monkeypatch.setattr(Program, "step", counted)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def test_nothing_compiles_after_the_first_round(tmp_path, compilations):
    """Logs, evaluations and saves included: what compiles, compiles in the first period."""
    train(digits("total_steps=48", "log_every=4", "eval_every=8", "save_every=8"), tmp_path / "run")
    assert compilations[0] < compilations[2]
    assert compilations[2] == compilations[4]
    assert compilations[16] == compilations[46]


def test_the_count_sees_a_recompilation(tmp_path, compilations, monkeypatch):
    """The test above can fail: rows of another shape compile again."""
    rows = Feeder.rows
    monkeypatch.setattr(
        Feeder, "rows", lambda self, step: jax.tree.map(lambda x: x[:, : 16 - 8 * (step > 8)], rows(self, step))
    )
    train(digits("total_steps=16", "log_every=16", "eval_every=0", "save_every=0"), tmp_path / "run")
    assert compilations[14] > compilations[8]


def test_curves_of_bleu_are_of_translations():
    rows = [{"step": 1, "train/loss": 2.0, "test/self_bleu": 3.0}, {"step": 2, "test/real_self_bleu": 1.0}]
    assert set(plots.of_a_run(rows)) == {"curves"}
    assert set(plots.of_a_run([*rows, {"step": 3, "test/greedy_bleu": 4.0}])) == {"curves", "curves_bleu"}
    rows = [{"step": 3, "test/bleu@sampling.beams=5": 4.0}, {"step": 4, "test/self_bleu@sampling.length=9": 4.0}]
    assert set(plots.of_a_run(rows)) == {"curves_bleu"}
