"""`Sweep(...).run()`: trials side by side until there are enough of them, or until it is stopped; then it continues.

One process draws, watches and judges; Optuna's journal is written by it alone, so that a worker that dies holds no
lock and loses no trial. A trial is a process that trains in `trials/NNN`; where it dies it is started again there.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from etils import epath
from optuna.trial import TrialState

from gen_jax import compat
from gen_jax import config as configs
from gen_jax.errors import ConfigError, DataError, RunError
from gen_jax.parallel import signals
from gen_jax.runs import metric_tags
from gen_jax.runs.progress import Progress
from gen_jax.runs.resume import flatten
from gen_jax.runs.run_dir import RunDir, write_atomic
from gen_jax.sweeps import goal, journal, space
from gen_jax.sweeps.definition import Definition
from gen_jax.sweeps.trainer import COMMAND, Trainer, check_folder, lock, open_log

TRIALS = 16  # where neither the flag nor a grid says how many
DEATHS = 3  # without a new row in between, and a trial counts as failed
REFUSALS = 3  # trials whose config is wrong, before any other has come through, and the sweep stops


class Sweep:
    """A sweep in its folder: `sweep.json, journal.jsonl, trials/NNN/, logs/NNN.log`.

    Args:
      definition: what to do.
      workdir: local; made, or continued where it holds the same sweep.
      trials: how many in all, those of an earlier start included; None = the whole grid, or `TRIALS`.
      workers: trials at once.
      on_end: called with all trials whenever one has ended.
      command: trains; gets `--config`, the flags and `--workdir`.
      poll: seconds between two looks at the workers.

    Raises:
      ConfigError: another sweep, or something else, is in workdir.
    """

    def __init__(
        self,
        definition: Definition,
        workdir: str | os.PathLike,
        *,
        trials: int | None = None,
        workers: int = 1,
        on_end: Callable[[list[optuna.trial.FrozenTrial]], None] = lambda trials: None,
        command: Sequence[str] = COMMAND,
        poll: float = 0.5,
    ):
        self.definition, self.workers, self.command, self.poll, self.on_end = definition, workers, command, poll, on_end
        if "://" in os.fspath(workdir):
            raise ConfigError(f"workdir: expected a local directory for a sweep, got {workdir}")
        self.path = Path(os.path.abspath(os.path.expanduser(workdir)))
        wanted = trials or (len(definition.grid) if definition.search == "grid" else TRIALS)
        self.total = min(wanted, len(definition.grid)) if definition.grid else wanted
        self.running: dict[Trainer, optuna.Trial] = {}
        self.measured = False  # a trial has the goal in a row
        if begun := check_folder(self.path):
            self._compare(begun)

    def _compare(self, begun: dict[str, Any]) -> None:
        """Refuses the folder of another sweep; what no trial was judged by yet may be corrected."""
        old, new = flatten(begun), flatten(self.definition.identity())
        trials = journal.begun(self.path / "journal.jsonl")
        changed = [key for key in old | new if old.get(key) != new.get(key)]
        if "search" in changed:  # which writes the same space otherwise
            changed = [key for key in changed if not key.startswith("space.")]
        if journal.all_refused(trials) or (
            changed == ["goal"] and not any(journal.is_judged(trial) for trial in trials)
        ):
            return
        if changed:
            ours = [key for key in changed if not key.startswith("space.")]
            drawn = [key.removeprefix("space.") for key in changed if key.startswith("space.")]
            pairs = (f"{key} was {old.get(key)!r}, is now {new.get(key)!r}" for key in ours)
            what = "; ".join([*[f"sweep(s) says something else of {', '.join(drawn)}"] * bool(drawn), *pairs])
            raise ConfigError(f"workdir: {self.path} holds another sweep: {what}")

    def begin(self) -> None:
        """Writes what the sweep is, where that is not done."""
        check_folder(self.path)
        for folder in ("trials", "logs"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        file, text = self.path / "sweep.json", json.dumps(self.definition.identity(), indent=2) + "\n"
        if not file.exists() or file.read_text() != text:
            write_atomic(epath.Path(file), text)

    def run_dir(self, number: int) -> RunDir:
        """Of a trial."""
        return RunDir(self.path / "trials" / f"{number:03}")

    def trial_command(self, number: int) -> list[str]:
        """What trains one trial of a grid or a random search by itself, on any machine; `run` then finds it done.

        Raises:
          ConfigError: there is no such trial, or it depends on others.
        """
        if self.definition.search not in ("grid", "random"):
            raise ConfigError(f"--search: expected grid or random beside --trial, got {self.definition.search}")
        if not 0 <= number < self.total:
            raise ConfigError(f"--trial: expected 0 to {self.total - 1}, got {number}")
        point = self.definition.drawn(number)
        self.definition.load(point)
        return [*self._trains(point), f"--workdir={os.fspath(self.run_dir(number).path)}"]

    def _trains(self, point: space.Point) -> list[str]:
        return [*self.command, f"--config={self.definition.spec}", *self.definition.overrides, *point.flags()]

    def run(self) -> list[optuna.trial.FrozenTrial]:
        """Trains until `trials` have ended; returns them.

        Raises:
          Preempted, Interrupted: a signal came; the trials that ran have saved.
          ConfigError: the config of every trial was wrong; the next start begins anew.
          DataError: a trial found no data; it continues at the next start.
          RunError: none came to an end.
        """
        with (
            self._opened(),
            signals.polled() as should_stop,
            Progress("sweep", self.total, self._ended(), unit="trial") as self.progress,
        ):
            orphan = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
            try:
                while orphan or self.running or len(self.trials()) < self.total:
                    if error := should_stop():
                        ended = f"{self._ended()} of {self.total} trials have ended"
                        raise error(f"stopped, {ended}; the same command continues from there")
                    refused = self._refused()
                    if refused and not self.running:
                        raise ConfigError(refused)
                    room = 0 if refused else self.workers
                    while len(self.running) < room and (orphan or len(self.trials()) < self.total):
                        self._start(orphan.pop(0) if orphan else None)
                    for trainer in list(self.running):
                        self._follow(trainer)
                    time.sleep(self.poll * bool(self.running))
            finally:
                for trainer in self.running:
                    trainer.process.terminate()
                for trainer in self.running:
                    trainer.process.wait()
                    trainer.log.close()
        if refused := self._refused():
            raise ConfigError(refused)
        if not any(trial.state == TrialState.COMPLETE for trial in self.trials()):
            raise RunError(f"sweep: no trial was completed; see {self.path / 'logs'}")
        return self.trials()

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """All that were begun, in order."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]

    def _ended(self) -> int:
        return sum(trial.state.is_finished() for trial in self.trials())

    def _refused(self) -> str:
        """Why nothing comes through: all that ended had a wrong config, and none that runs came further; else ""."""
        ended = [trial for trial in self.trials() if trial.state.is_finished()]
        if len(ended) < min(REFUSALS, self.total) or not all(trial.user_attrs.get("refused") for trial in ended):
            return ""
        reached = max(trial.user_attrs["step"] for trial in ended)
        if any(_step(trainer.run_dir) > reached for trainer in self.running):
            return ""
        return f"trial {ended[0].number}: {ended[0].user_attrs['reason']}"

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """The folder is this process's own; the journal is whole, and its lock is taken from whoever died with it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as mine:
            if not lock(mine):
                raise ConfigError(f"workdir: another sweep is running in {self.path}")
            self.begin()
            for stale in self.path.glob("journal.jsonl.lock*"):
                stale.unlink()
            file = self.path / "journal.jsonl"
            if file.exists():
                os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
            if journal.all_refused(old := journal.begun(file)):
                self._forget(old)
            self.study = journal.opened(file, self.definition)
            yield

    def _forget(self, trials: list[optuna.trial.FrozenTrial]) -> None:
        """None of them had a right config: begins anew, as what was corrected need not be the sweep."""
        for trial in trials:
            shutil.rmtree(self.run_dir(trial.number).path, ignore_errors=True)
        (self.path / "journal.jsonl").unlink()

    def _start(self, orphan: optuna.trial.FrozenTrial | None) -> None:
        """Starts a new trial, or one that an earlier start of the sweep has left."""
        number = orphan.number if orphan else len(self.trials())
        self.study.sampler = self.definition.sampler(number)
        trial = optuna.Trial(self.study, compat.trial_id(orphan)) if orphan else self.study.ask()
        run_dir = self.run_dir(number)
        try:
            point = space.ask(self.definition.define, trial)
            trial.set_user_attr("params", point.params)
            config = self.definition.load(point)
        except ConfigError as error:
            return self._fail(trial, str(error), refused=True)
        if run_dir.status().get("state") == "done" and run_dir.check(configs.to_dict(config)):
            return self._complete(trial, run_dir)  # trained apart from this sweep: see `trial_command`
        file = self.path / "logs" / f"{number:03}.log"
        log = open_log(file, trial.user_attrs.get("place"), self.progress.say)
        slot = min(set(range(self.workers)) - {trainer.slot for trainer in self.running})
        trainer = Trainer(self._trains(point), run_dir, log, slot, min(self.workers, self.total))
        trial.set_user_attr("place", trainer.place())
        self.running[trainer] = trial

    def _follow(self, trainer: Trainer) -> None:
        """Judges a trial by what it has written, and by how its process has ended if it has."""
        trial, code = self.running[trainer], trainer.process.poll()
        open_ = self.study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING
        if code is None:
            self.measured = self.measured or goal.is_measured(trainer.run_dir, self.definition.first.metric)
            if open_ and self.definition.rung and self._falls_behind(trainer, trial):
                self._tell(trial, trainer.run_dir, TrialState.PRUNED)
                trainer.process.terminate()
            return
        died = code < 0 or code in (75, 76)  # by a signal, preempted, hung
        if open_ and died and trainer.deaths() < DEATHS:
            self.progress.say(f"trial {trial.number}: ended with {code}, continues")
            trainer.start()
            return trial.set_user_attr("place", trainer.place())
        reason = f"ended with {code}, {DEATHS} times without a new row" if died else trainer.last_line()
        if open_ and code == DataError.code:
            raise DataError(f"trial {trial.number}: {reason}")
        if open_ and code == 0:
            self._complete(trial, trainer.run_dir)
        elif open_:
            self._fail(trial, reason, trainer.run_dir, refused=code == ConfigError.code)
        trainer.log.close()
        del self.running[trainer]

    def _falls_behind(self, trainer: Trainer, trial: optuna.Trial) -> bool:
        """Reports the new rows that have the metric, until asha stops the trial. Never by its last row."""
        seen = self.study.get_trials(deepcopy=False)[trial.number].last_step or 0
        for row in trainer.run_dir.rows():
            tags = metric_tags.find(self.definition.first.metric, list(row))
            if seen < row["step"] < trainer.run_dir.config()["total_steps"] and len(tags) == 1:
                value = row[tags[0]]
                trial.report(float("nan") if value is None else value, row["step"])
                if trial.should_prune():
                    return True
        return False

    def _complete(self, trial: optuna.Trial, run_dir: RunDir) -> None:
        try:
            tag, value = goal.last(run_dir.rows(), self.definition.first.metric)
        except ConfigError as error:
            if any("tag" in other.user_attrs for other in self.trials()):
                return self._fail(trial, str(error), run_dir)
            raise
        for other in self.trials():
            if unlike := metric_tags.difference(other.user_attrs.get("tag", tag), tag):
                return self._fail(trial, f"{tag} is not alike in trial {other.number}: {unlike}", run_dir)
        trial.set_user_attr("tag", tag)
        if value is None:
            self._fail(trial, "not finite", run_dir)
        else:
            self._tell(trial, run_dir, TrialState.COMPLETE, value)

    def _fail(self, trial: optuna.Trial, reason: str, run_dir: RunDir | None = None, *, refused: bool = False) -> None:
        """refused: its config was wrong."""
        trial.set_user_attr("reason", reason)
        trial.set_user_attr("refused", refused)
        self._tell(trial, run_dir, TrialState.FAIL)

    def _tell(self, trial: optuna.Trial, run_dir: RunDir | None, state: TrialState, value: float | None = None):
        trial.set_user_attr("step", _step(run_dir) if run_dir else 0)
        ended = self.study.tell(trial, value, state=state)
        params = " ".join(f"{key}={value}" for key, value in ended.user_attrs.get("params", {}).items())
        found = ended.user_attrs.get("reason") or f"{ended.value:.6g}"
        self.progress.say(f"trial {trial.number}: {state.name.lower()} {found}  {params}")
        self.on_end(self.trials())
        with contextlib.suppress(ValueError):  # none is complete
            best = self.study.best_trial
            self.progress.update(self._ended(), f"best {best.value:.6g} (trial {best.number})")


def _step(run_dir: RunDir) -> int:
    """Of the last row."""
    rows = run_dir.rows()
    return rows[-1]["step"] if rows else 0
