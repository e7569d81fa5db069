"""`train(config, workdir) -> State`: the one loop, for every family.

It dispatches the model's compiled step, reads metrics when they are due, evaluates, saves, and resumes. What it
writes to metrics.jsonl is a function of the config alone: a run that was killed and started again gives the same
bytes as one that was not.
"""

import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gen_jax import config as configs
from gen_jax import flops, optim, pictures, sharding, signals
from gen_jax.checkpoint import Checkpoints, load_into
from gen_jax.errors import Interrupted, NonFiniteError, Preempted, RunError
from gen_jax.log import Writer
from gen_jax.program import Program
from gen_jax.progress import Progress
from gen_jax.run_dir import RunDir
from gen_jax.state import State, path_name

TAGS = {"validation": "val"}
Asked = Callable[[], type[RunError] | None]


@dataclasses.dataclass
class Journal:
    """What a resumed loop must know beside the state; saved as JSON in every checkpoint.

    evaluated: the last step that was evaluated. best, best_step: of the metric `config.best`. worse: evaluations
    since then. window: name -> [total, weight] of the steps since the last log. row: scalars of this step whose row is
    not written yet.
    """

    evaluated: int = -1
    best: float | None = None
    best_step: int | None = None
    worse: int = 0
    window: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    row: dict[str, float] = dataclasses.field(default_factory=dict)


def train(config: Any, workdir: str | os.PathLike) -> State:
    """Trains, or goes on, until `config.total_steps`; returns the last state.

    Args:
      config: a ConfigDict, a dict or a resolved Experiment.
      workdir: the run directory, local or `gs://`; created, or resumed when it holds a run of the same config.

    Raises:
      ConfigError, DataError: before anything is compiled.
      NonFiniteError, CheckpointError, Preempted, Interrupted: as their names say; the run can be resumed.
    """
    experiment = configs.resolve(config)
    run_dir = RunDir(workdir)
    run_dir.check(configs.to_dict(experiment))
    with signals.polled() as asked:
        program = Program(experiment)
        run_dir.create(configs.to_dict(experiment))
        with Checkpoints(run_dir.checkpoints, experiment.keep, experiment.hash_limit_mb) as checkpoints:
            return _Loop(program, run_dir, checkpoints, asked).run()


class _Loop:
    """One run of `train`."""

    def __init__(self, program: Program, run_dir: RunDir, checkpoints: Checkpoints, asked: Asked):
        self.experiment, self.run_dir, self.checkpoints, self.asked = program.experiment, run_dir, checkpoints, asked
        program.poll = self.poll
        state, self.journal = self._start(program)
        self.step = int(jax.device_get(state.step))
        self.program = program.preprocessed(state, run_dir.path / "cache")
        self.evaluators = self.program.evaluators()
        self.state = self.program.enter(state)  # donated to every step
        self.pending: list[dict] = []  # metrics still on the device
        self.tracing = False

    def _start(self, program: Program) -> tuple[State, Journal]:
        restored = self.checkpoints.restore(program.abstract)
        if restored:
            _, state, journal = restored
            return state, Journal(**journal)
        state = program.init()
        source = self.experiment.init_from
        if source.workdir:
            state = load_into(state, source.workdir, source.step, source.nets, source.allow)
        return state, Journal()

    def poll(self) -> None:
        """Ends an evaluation early where a signal asks for it."""
        if jax.process_count() == 1 and (error := self.asked()):
            raise error("stopped in an evaluation")

    def run(self) -> State:
        self.run_dir.record_start(self.experiment.seed, mesh=sharding.describe(self.program.mesh))
        self.run_dir.truncate_after(self.step)
        ended = "failed"
        try:
            with (
                contextlib.closing(Writer(self.run_dir.path, self.step + 1 if self.step else 0)) as self.writer,
                Progress("train", self.experiment.total_steps, self.step) as self.progress,
            ):
                self.run_dir.write_status("running", self.step)
                self._steps()
                self._draw_curves()
            self.checkpoints.wait()
            ended = "done"
        except (Preempted, Interrupted) as error:
            ended = type(error).__name__.lower()
            raise
        finally:
            self.run_dir.write_status(ended, self.step)
        return self.program.leave(self.state)

    def _steps(self) -> None:
        """Steps until the end, a signal or an early stop."""
        if self.step == 0:
            self.writer.write_texts(0, {"config": configs.to_markdown(self.experiment)})
        self.timer = _Timer(self.program, self.step)
        if self.journal.row:
            self.writer.write_scalars(self.step, self.journal.row)
        self.finish_boundary()  # a signal may have come between a step and its evaluation
        while self.step < self.experiment.total_steps and not self.stopped():
            self._trace()
            self.state, metrics = self.program.step(self.state, self.step)
            self.pending.append(metrics)
            self.step += self.experiment.steps_per_call
            stop = signals.agreed(self.asked(), self.step)
            if self.due(self.experiment.log_every):
                self.log()
            if stop:
                self.save()
                raise stop(f"stopped at step {self.step}; the same command goes on from there")
            self.finish_boundary()

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
            for k in range(self.experiment.steps_per_call):
                first += 1
                for name, mean in call.items():
                    total, weight = (np.asarray(part)[k].item() for part in (mean.total, mean.weight))
                    if not math.isfinite(total):
                        raise NonFiniteError(f"train/{name} is {total} at step {first}; the last checkpoint is intact")
                    sums = self.journal.window.setdefault(name, [0.0, 0.0])
                    sums[0], sums[1] = sums[0] + total, sums[1] + weight
        self.pending = []

    def log(self) -> None:
        """One row of the training metrics since the last."""
        self.read()
        scalars = {f"train/{name}": t / w for name, (t, w) in self.journal.window.items() if w}
        for name, cfg in self.experiment.optim.items():
            if cfg.schedule != "constant" or cfg.warmup:
                schedule = optim.schedule(cfg, self.experiment.total_steps)
                scalars[f"train/{name}_lr"] = float(schedule(self.step * cfg.updates_per_step))
        self.journal.window, self.journal.row = {}, scalars
        self.writer.write_scalars(self.step, scalars)
        self.writer.write_perf(self.step, self.timer.lap(self.step))
        self.progress.update(self.step, " ".join(f"{k} {v:.4g}" for k, v in list(scalars.items())[:3]))

    def finish_boundary(self) -> None:
        """Evaluates, ends the row, saves: whatever is due at this step and not done."""
        improved = False
        if self.evaluates():
            try:
                improved = self.evaluate(self.program.leave(self.state))
            except RunError:
                self.save()
                raise
        if self.journal.row:
            self.writer.end_step(self.step)
            self.journal.row = {}
        if self.step and (self.due(self.experiment.save_every) or improved or self.stopped()):
            self.save()

    def evaluate(self, state: State) -> bool:
        """Runs the evaluators that are due; returns whether the best metric became better."""
        scalars = self._evaluate(state, "always")
        improved = self._judge(scalars)
        if self.step == self.experiment.total_steps or self.stopped():
            scalars |= self._evaluate(state, "end")
            self.writer.write_hparams(_hparams(self.experiment))
        if self.experiment.histograms:
            self.writer.write_histograms(self.step, _histograms(state))
        self.journal.evaluated = self.step
        self.journal.row |= scalars
        self.timer.skip()
        return improved

    def _evaluate(self, state: State, when: str) -> dict[str, float]:
        scalars: dict[str, float] = {}
        for name, evaluator in self.evaluators.items():
            cfg = self.experiment.evals[name]
            if cfg.when == when:
                self.progress.update(self.step, f"evaluating {name}")
                scalars |= write_report(self.writer, self.step, cfg, evaluator(state), self.progress.say)
        return scalars

    def _judge(self, scalars: dict[str, float]) -> bool:
        best = self.experiment.best
        if best.metric not in scalars:
            return False
        value, old = scalars[best.metric], self.journal.best
        better = old is None or (value < old if best.mode == "min" else value > old)
        if better:
            self.journal.best, self.journal.best_step, self.journal.worse = value, self.step, 0
        else:
            self.journal.worse += 1
        return better

    def save(self) -> None:
        self.read()
        if self.checkpoints.latest_step() == self.step:
            return
        self.checkpoints.save(self.step, self.program.leave(self.state), dataclasses.asdict(self.journal))
        self.timer.skip()

    def _draw_curves(self) -> None:
        """The losses over the whole run as one picture."""
        rows = self.run_dir.rows()
        losses = {tag: None for row in rows for tag in row if tag.endswith("loss")}
        if losses:
            self.writer.write_images(self.step, {"curves": pictures.curves(rows, tuple(losses))})

    def _trace(self) -> None:
        """Starts and ends the profiler's trace around the steps that the config names."""
        start, steps = self.experiment.profile.start, self.experiment.profile.steps
        if steps and not self.tracing and start <= self.step < start + steps:
            jax.profiler.start_trace(os.fspath(self.run_dir.tb))
            self.tracing = True
        elif self.tracing and self.step >= start + steps:
            jax.profiler.stop_trace()
            self.tracing = False


class _Timer:
    """Wall time of steps between logs, without evaluations and saves."""

    def __init__(self, program: Program, step: int):
        self.batch_size = program.experiment.batch_size
        peak = flops.peak(program.mesh.devices.flat[0])
        self.flops = program.flops_per_step() if peak else 0.0
        self.peak = (peak or 0.0) * program.mesh.devices.size
        self.step, self.since = step, time.perf_counter()

    def lap(self, step: int) -> dict[str, float]:
        """Speed since the last lap; call it when the metrics of `step` have been read."""
        seconds = (time.perf_counter() - self.since) / max(step - self.step, 1)
        self.step, self.since = step, time.perf_counter()
        speed = {"ms_per_step": 1e3 * seconds, "examples_per_s": self.batch_size / seconds}
        return speed | ({"mfu": self.flops / seconds / self.peak} if self.peak else {})

    def skip(self) -> None:
        """What was done since the last lap was no training."""
        self.since = time.perf_counter()


def write_report(writer: Writer, step: int, cfg: Any, report: Any, say: Callable[[str], None]) -> dict[str, float]:
    """Writes what an evaluator found under its split's tag; returns the tagged scalars."""
    tag = f"{TAGS.get(cfg.split, cfg.split)}/{cfg.prefix}"
    scalars = {f"{tag}{name}": float(value) for name, value in report.scalars.items()}
    writer.write_scalars(step, scalars)
    writer.write_images(step, {f"{tag}{name}": image for name, image in report.images.items()})
    writer.write_texts(step, {f"{tag}{name}": text for name, text in report.texts.items()})
    for warning in report.warnings:
        say(f"warning: step {step}: {warning}")
    return scalars


def _histograms(state: State) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path({name: net.params for name, net in state.nets.items()})
    return {f"params/{path_name(path)}": np.asarray(leaf) for path, leaf in leaves}


def _hparams(experiment: configs.Experiment) -> dict[str, Any]:
    """What a sweep would vary."""
    config = configs.to_dict(experiment)
    return {key: config[key] for key in ("seed", "batch_size", "model", "optim")}


if __name__ == "__main__":
    from gen_jax import cli

    cli.main(["train", *sys.argv[1:]])
