"""One run from its first step, or the one it was saved at, to its end: `Loop(...).run()`.

It dispatches the model's compiled step, reads metrics when they are due, evaluates, saves, and resumes. What it
writes to metrics.jsonl is a function of the config alone: a run that was killed and started again gives the same
bytes as one that was not.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np

from gen_jax import config as configs
from gen_jax.core.state import State, path_name
from gen_jax.errors import RunError
from gen_jax.parallel import sharding, signals
from gen_jax.parallel.processes import gather
from gen_jax.runs import metric_tags, plots
from gen_jax.runs.checkpoint import Checkpoints
from gen_jax.runs.log import Writer
from gen_jax.runs.progress import Part, Progress, brief
from gen_jax.runs.run_dir import RunDir
from gen_jax.training import gpt2
from gen_jax.training.init_from import load_into
from gen_jax.training.journal import ALARM, Journal
from gen_jax.training.nonfinite import Guard
from gen_jax.training.perf import Timer, Tracer
from gen_jax.training.program import Program

Asked = Callable[[], type[RunError] | None]
Run = Generator[int, None, State]  # yields the number of a step before it is made


class Loop:
    """One run."""

    def __init__(
        self,
        program: Program,
        run_dir: RunDir,
        checkpoints: Checkpoints,
        asked: Asked,
        moved: Callable[[], None],
        reached: dict[str, int],
        progress: Progress | Part,
    ):
        self.experiment, self.run_dir, self.checkpoints = program.experiment, run_dir, checkpoints
        self.asked, self.moved = asked, moved
        program.poll = self.poll
        state, self.journal = self._start(program)
        self.moved()
        self.step = int(jax.device_get(state.step))
        self.reached = reached
        self.program = program.preprocessed(state, run_dir.path / "cache")
        self.evaluators = self.program.evaluators
        self.guard = Guard(self.program, run_dir)
        self.state = self.program.enter(state)  # donated to every step
        self.pending: list[dict] = []  # metrics still on the device
        first_row = self.step if self.journal.row or self.journal.open else self.step + 1  # that is to be written
        run_dir.truncate_after(first_row - 1)
        self.writer = Writer(run_dir, first_row if self.step else 0)
        self.progress = progress
        self.progress.start(self.step)
        self.warn_of_other_rates()
        self.timer = Timer(self.program, self.step)
        self.tracer = Tracer(self.program.profile, run_dir.tb)

    def _start(self, program: Program) -> tuple[State, Journal]:
        self.saved: tuple[int, dict] | None = None
        restored = self.checkpoints.restore(program.abstract)
        if restored:
            step, state, journal = restored
            self.saved = step, journal
            found = Journal(**journal)
            found.forget_another_best(self.experiment.best)
            return state, found
        return first_state(program), Journal()

    def poll(self) -> None:
        """Between the batches of an evaluation: ends it early where a signal asks for it."""
        self.moved()
        if jax.process_count() == 1 and (error := self.asked()):
            raise error("stopped; the same command continues from the last save")

    def run(self) -> Run:
        """Steps until the end, a signal or an early stop. Before each it yields: where it is one of several seeds, the
        others come as far, and the step is made for all."""
        self.run_dir.record_start(self.experiment.seed, mesh=sharding.describe(self.program.mesh))
        if self.step == 0:
            self.writer.write_texts(0, {"config": configs.to_markdown(self.experiment)})
            self.writer.write_hparams(hparams(configs.to_dict(self.experiment)))
        if self.journal.row:
            self.writer.write_scalars(self.step, self.journal.row)
        k, first = self.experiment.steps_per_call, self.step
        self.poll()  # what was restored needs no saving
        try:
            self.finish_boundary()  # a signal may have come between a step and its evaluation
            while self.step < self.experiment.total_steps and not self.stopped():
                self.moved()
                self.tracer.before(self.step, k)
                if self.step == first:
                    self.progress.update(self.step, "compiling ...", at_once=True)
                yield self.step
                self.state, metrics = self.program.step(self.state, self.step)
                self.pending.append(metrics)
                self.step += k
                self.reached["step"] = self.step
                stop = signals.agreed(self.asked(), self.step // k)
                if self.due(self.experiment.log_every):
                    self.log()
                if stop:
                    self.save()
                    self.checkpoints.wait()
                    raise stop(f"stopped at step {self.step}; the same command continues from there")
                self.finish_boundary()
        finally:
            self.tracer.stop()
        self._draw_curves()
        for name, (total, weight) in self.journal.alarms.items():
            if total:
                self.progress.say(f"{name} in the whole run: {total:.0f} of {weight:.0f}")
        self.moved()
        self.checkpoints.wait()
        return self.program.leave(self.state)

    def due(self, every: int) -> bool:
        return self.step == self.experiment.total_steps or bool(every and self.step % every == 0)

    def evaluates(self) -> bool:
        """The evaluation of this step is due and not done."""
        return self.step > 0 and self.due(self.experiment.eval_every) and self.journal.evaluated < self.step

    def stopped(self) -> bool:
        patience = self.experiment.best.patience
        return bool(patience) and self.journal.worse >= patience

    def read(self) -> None:
        """Takes the pending metrics from the device into the window; checks that each step's are finite."""
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
        self.moved()

    def log(self) -> None:
        """One row of the training metrics since the last."""
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
        """The learning rates of this step's last updates, of the networks that have a schedule."""
        rates = {name: self.experiment.rate(name, self.step) for name in self.experiment.optim}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def warn_of_other_rates(self) -> None:
        """Says where the rates that this run's last steps had are not those that its schedules give them now."""
        now = self.rates()
        for name, old in self.journal.rates.items():
            if not math.isclose(old, new := now.get(name, self.experiment.optim[name].lr), rel_tol=1e-5, abs_tol=1e-12):
                self.progress.say(
                    f"warning: step {self.step} had the learning rate {old:.3g} of optim.{name}, and its schedule over "
                    f"{self.experiment.total_steps} steps continues from {new:.3g}; to keep the old one, set "
                    f"config.optim.{name}.schedule_steps to the steps that it was made for"
                )

    def finish_boundary(self) -> None:
        """Evaluates, ends the row, saves: whatever is due at this step and not done.

        A step is saved before it is evaluated, so that nothing an evaluator raises costs what was trained: the same
        command evaluates it again. What the evaluation found is noted beside it then.
        """
        started, evaluates = time.perf_counter(), self.evaluates()
        if evaluates:
            self.journal.open = True
            self.save()
            self.evaluate(self.program.leave(self.state))
        if self.journal.row:
            self.writer.end_step(self.step)
        self.journal.row, self.journal.open = {}, False
        if evaluates or (self.step and self.due(self.experiment.save_every)):
            self.save()
        self.timer.pause(time.perf_counter() - started)

    def evaluate(self, state: State) -> None:
        """Runs the evaluators that are due."""
        scalars = self._evaluate(state, "always")
        self.journal.judge(self.experiment.best, scalars, self.step)
        if self.step == self.experiment.total_steps or self.stopped():
            scalars |= self._evaluate(state, "end")
        if self.experiment.histograms:
            self.writer.write_histograms(self.step, _histograms(state))
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
                self.moved()
                self.progress.update(self.step, f"evaluating {name}")
                scalars |= write_report(self.writer, self.step, cfg, evaluator(state), self.progress.say)
        return scalars

    def save(self) -> None:
        """Saves this step; where it is saved, notes the journal that has changed since.

        Raises:
          NonFiniteError: the state is not finite; that is never saved.
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

    def _draw_curves(self) -> None:
        self.writer.write_images(self.step, plots.of_a_run(self.run_dir.rows()))


def first_state(program: Program) -> State:
    """What a run starts from that has no checkpoint: new parameters, or those that `config.init_from` names."""
    state, source = program.init(), program.experiment.init_from
    if source.workdir:
        state = load_into(state, source.workdir, source.step, source.nets, source.allow, source.reset)
    if source.safetensors:
        state = gpt2.load_into(state, source.safetensors, program.model.network.kv_shape[0], source.reset)
    return state


def write_report(writer: Writer, step: int, cfg: Any, report: Any, say: Callable[[str], None]) -> dict[str, float]:
    """Writes what an evaluator found under its split's tag; returns the tagged scalars."""
    tag = f"{metric_tags.head(cfg.split)}/{cfg.prefix}"
    scalars = {f"{tag}{name}": float(value) for name, value in report.scalars.items()}
    writer.write_scalars(step, scalars)
    writer.write_images(step, {f"{tag}{name}": image for name, image in report.images.items()})
    writer.write_texts(step, {f"{tag}{name}": text for name, text in report.texts.items()})
    sounds = {f"{tag}{name}": sound[..., None] / 32767 for name, sound in report.audios.items()}
    writer.write_audios(step, sounds, sample_rate=report.sample_rate)
    for warning in report.warnings:
        say(f"warning: step {step}: {warning}")
    return scalars


def _histograms(state: State) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path({name: net.params for name, net in state.nets.items()})
    return {f"params/{path_name(path)}": gather(leaf) for path, leaf in leaves}


def hparams(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep would vary."""
    return {key: config[key] for key in ("seed", "total_steps", "batch_size", "data", "model", "optim")}
