"""One run, from its first step or its last checkpoint to its end: `Loop(...).run()`.

The loop dispatches the model's compiled step, reads metrics when they are due, evaluates, saves and resumes. What it
writes to metrics.jsonl depends on the config alone: a run that was killed and restarted writes the same bytes as an
uninterrupted one.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator

import jax
import numpy as np

from gen_jax import config as configs
from gen_jax.core.state import State
from gen_jax.parallel import sharding, signals
from gen_jax.runs import metric_tags, plots
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.runs.log import Writer
from gen_jax.runs.progress import Part, Progress, brief
from gen_jax.runs.run_dir import RunDir
from gen_jax.training.init_from import first_state
from gen_jax.training.journal import ALARM, Journal
from gen_jax.training.nonfinite import Guard
from gen_jax.training.perf import Timer, Tracer
from gen_jax.training.preprocess import measured, preprocessed
from gen_jax.training.program import Program
from gen_jax.training.report import histograms, hparams, write_report
from gen_jax.training.supervisor import Supervisor


class Loop:
    """One run. It starts from the newest checkpoint of its directory, if there is one."""

    def __init__(
        self,
        program: Program,
        run_dir: RunDir,
        checkpoints: Checkpoints,
        supervisor: Supervisor,
        progress: Progress | Part,
    ):
        self.experiment, self.run_dir, self.checkpoints = program.experiment, run_dir, checkpoints
        self.supervisor = supervisor
        program.poll = self.poll
        state, self.journal = self._restore(program)
        supervisor.heartbeat()
        self.step = self.first_step = int(jax.device_get(state.step))
        self.program = preprocessed(program, state, run_dir.path / "cache")
        state = measured(self.program, state)
        self.evaluators = self.program.evaluators
        self.guard = Guard(self.program, run_dir)
        self.state = self.program.enter(state)  # donated to every step
        self.pending: list[dict] = []  # metrics still on the device
        first_row = self.step if self.journal.row or self.journal.open else self.step + 1  # that is to be written
        run_dir.truncate_after(first_row - 1)
        self.writer = Writer(run_dir, first_row if self.step else 0, self.experiment.log.writers)
        self.progress = progress
        self.progress.start(self.step)
        self.warn_of_other_rates()
        self.timer = Timer(self.program, self.step)
        self.tracer = Tracer(self.program.profile, run_dir.events)

    def _restore(self, program: Program) -> tuple[State, Journal]:
        """The newest checkpoint, else the first state."""
        self.saved: tuple[int, dict] | None = None
        if restored := self.checkpoints.restore(program.abstract):
            step, state, journal = restored
            self.saved = step, journal
            found = Journal(**journal)
            found.forget_another_best(self.experiment.best)
            return state, found
        return first_state(program), Journal()

    def run(self) -> State:
        """Trains to the last step, or until an early stop. Returns the last state.

        Raises:
          Preempted, Interrupted: a signal came; the last step is saved.
        """
        self.start()
        while not self.is_done():
            self.before_step()
            self.train_step()
        return self.finish()

    def start(self) -> None:
        """Records this start in the run directory, then does what is still due at the restored step."""
        facts = {"mesh": sharding.describe(self.program.mesh), "parameters": self.program.shapes.sizes}
        self.run_dir.record_start(self.experiment.seed, **facts)
        if self.step == 0:
            self.writer.write_texts(0, {"config": configs.to_markdown(self.experiment)})
            self.writer.write_hparams(hparams(configs.to_dict(self.experiment)))
        if self.journal.row:
            self.writer.write_scalars(self.step, self.journal.row)
        self.poll()  # what was restored needs no saving
        self.evaluate_and_save()  # a signal may have come between a step and its evaluation

    def is_done(self) -> bool:
        return self.step >= self.experiment.total_steps or self.stops_early()

    def before_step(self) -> None:
        """Runs before each dispatch."""
        self.supervisor.heartbeat()
        self.tracer.before(self.step, self.experiment.steps_per_call)
        if self.step == self.first_step:
            self.progress.update(self.step, "compiling ...", at_once=True)

    def train_step(self) -> None:
        """Dispatches `steps_per_call` updates, then logs, evaluates and saves what is due."""
        self.state, metrics = self.program.step(self.state, self.step)
        self.pending.append(metrics)
        self.step += self.experiment.steps_per_call
        self.supervisor.reach(self.step)
        stop = signals.agreed(self.supervisor.should_stop(), self.step // self.experiment.steps_per_call)
        if self.is_due(self.experiment.log_every):
            self.log()
        if stop:
            self.save()
            self.checkpoints.wait()
            raise stop(f"stopped at step {self.step}; the same command continues from there")
        self.evaluate_and_save()

    def finish(self) -> State:
        """Draws the curves and waits for the last save. Returns the last state."""
        self.tracer.close()
        self.writer.write_images(self.step, plots.of_a_run(self.run_dir.rows()))
        for name, (total, weight) in self.journal.alarms.items():
            if total:
                self.progress.say(f"{name} in the whole run: {total:.0f} of {weight:.0f}")
        self.supervisor.heartbeat()
        self.checkpoints.wait()
        return self.program.leave(self.state)

    def poll(self) -> None:
        """Runs between the batches of an evaluation, and ends it early if a signal came."""
        self.supervisor.heartbeat()
        if jax.process_count() == 1 and (error := self.supervisor.should_stop()):
            raise error("stopped; the same command continues from the last save")

    def is_due(self, every: int) -> bool:
        return self.step == self.experiment.total_steps or bool(every and self.step % every == 0)

    def evaluation_is_due(self) -> bool:
        """Whether this step is to be evaluated and has not been."""
        return self.step > 0 and self.is_due(self.experiment.eval_every) and self.journal.evaluated < self.step

    def stops_early(self) -> bool:
        patience = self.experiment.best.patience
        return bool(patience) and self.journal.worse >= patience

    def read(self) -> None:
        """Adds the pending metrics, read from the device, to the window. Checks that those of each step are finite."""
        first = self.step - len(self.pending) * self.experiment.steps_per_call
        for call in jax.device_get(self.pending):
            call = jax.tree.map(lambda part: np.asarray(part, np.float64), call)
            for k in range(self.experiment.steps_per_call):
                first += 1
                terms = jax.tree.map(lambda part, k=k: float(part[k]), call)
                self.guard.check_terms(terms, first)
                for name, mean in terms.items():
                    self.journal.add(name, mean.total, mean.weight)
        self.pending = []
        self.supervisor.heartbeat()

    def log(self) -> None:
        """Logs the training metrics since the last row."""
        self.read()
        scalars = {f"train/{name}": t / w for name, (t, w) in self.journal.window.items() if w}
        scalars |= {f"train/{name}_lr": rate for name, rate in self.rates().items()}
        for name, share in scalars.items():
            if name.startswith(f"train/{ALARM}") and share > 0:
                self.progress.say(f"warning: step {self.step}: {name} in {share:.0%} of the steps since the last row")
        self.journal.window, self.journal.row = {}, scalars
        self.writer.write_scalars(self.step, scalars)
        self.writer.write_perf(self.step, self.timer.lap(self.step))
        self.progress.update(self.step, brief(scalars))

    def rates(self) -> dict[str, float]:
        """The learning rates of this step's last updates, for networks with a schedule."""
        rates = {name: self.experiment.rate(name, self.step) for name in self.experiment.optim}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def warn_of_other_rates(self) -> None:
        """Warns if the last steps of this run used other learning rates than its schedules give now."""
        now = self.rates()
        for name, old in self.journal.rates.items():
            if not math.isclose(old, new := now.get(name, self.experiment.optim[name].lr), rel_tol=1e-5, abs_tol=1e-12):
                self.progress.say(
                    f"warning: step {self.step} had the learning rate {old:.3g} of optim.{name}, and its schedule over "
                    f"{self.experiment.total_steps} steps continues from {new:.3g}; to keep the old one, set "
                    f"config.optim.{name}.schedule_steps to the steps that it was made for"
                )

    def evaluate_and_save(self) -> None:
        """Saves and evaluates this step if that is due, and closes the row of the log.

        Saving comes first, so an error in an evaluator loses no training: the same command evaluates the step again.
        The result of the evaluation is then recorded beside the checkpoint.
        """
        started, evaluates = time.perf_counter(), self.evaluation_is_due()
        if evaluates:
            self.journal.open = True
            self.save()
            self.evaluate(self.program.leave(self.state))
        if self.journal.row:
            self.writer.end_step(self.step)
        self.journal.row, self.journal.open = {}, False
        if evaluates or (self.step and self.is_due(self.experiment.save_every)):
            self.save()
        self.timer.pause(time.perf_counter() - started)

    def evaluate(self, state: State) -> None:
        """Runs the evaluators that are due."""
        scalars = self._evaluate(state, "always")
        self.journal.judge(self.experiment.best, scalars, self.step)
        if self.step == self.experiment.total_steps or self.stops_early():
            scalars |= self._evaluate(state, "end")
        if self.experiment.histograms:
            self.writer.write_histograms(self.step, histograms(state))
        self.journal.evaluated = self.step
        self.journal.row = self.journal.row | scalars
        found = "  ".join(f"{metric_tags.name_of(tag)} {value:.5g}" for tag, value in scalars.items())
        self.progress.say(f"step {self.step}: {found}")
        if bad := [metric_tags.name_of(tag) for tag, value in scalars.items() if not math.isfinite(value)]:
            self.progress.say(f"warning: step {self.step}: not finite: {', '.join(bad)}")

    def _evaluate(self, state: State, when: str) -> dict[str, float]:
        scalars: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            cfg = self.experiment.evals[name]
            if cfg.when == when:
                self.supervisor.heartbeat()
                self.progress.update(self.step, f"evaluating {name}")
                scalars |= write_report(self.writer, self.step, cfg, evaluator(state), self.progress.say)
        return scalars

    def save(self) -> None:
        """Saves this step. If it is saved already, records a journal that has changed since.

        Raises:
          NonFiniteError: the state is not finite. Such a state is never saved.
        """
        self.read()
        self.journal.rates = self.rates()
        journal = dataclasses.asdict(self.journal)
        if self.saved == (self.step, journal):
            return
        if self.saved and self.saved[0] == self.step:
            self.checkpoints.record(self.step, journal)
        else:
            state = self.program.leave(self.state)
            self.guard.check_state(state, self.step)
            self.checkpoints.save(self.step, state, journal)
        self.saved = self.step, journal


@contextlib.contextmanager
def opened(program: Program, run_dir: RunDir, supervisor: Supervisor, progress: Progress | Part) -> Iterator[Loop]:
    """The loop of a run, with its logs and checkpoints open."""
    experiment = program.experiment
    with (
        run_dir.spooled(),
        Checkpoints(
            run_dir.checkpoints, experiment.keep, experiment.hash_limit_mb, run_dir.upload, run_dir.trust
        ) as checkpoints,
    ):
        loop = Loop(program, run_dir, checkpoints, supervisor, progress)
        with loop.writer, progress, contextlib.closing(loop.tracer):
            yield loop
