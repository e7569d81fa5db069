"""Speed of a run: throughput and MFU between logs, and profiler traces of chosen steps."""

import os
import time

import jax
from etils import epath

from gen_jax.config import Profile
from gen_jax.training import flops
from gen_jax.training.program import Program


class Timer:
    """Wall time of steps between logs, without the evaluations and saves among them."""

    def __init__(self, program: Program, step: int):
        self.batch_size = program.experiment.batch_size
        peak = flops.peak(program.mesh.devices.flat[0]) or 0.0
        self.flops = program.flops_per_step() if peak else 0.0
        self.peak = peak * program.mesh.devices.size
        self.spent = program.spent  # by all runs of the process that share the program
        self._begin(step)

    def _begin(self, step: int) -> None:
        self.step, self.since, self.paused = step, time.perf_counter(), self.spent["pauses"]

    def lap(self, step: int) -> dict[str, float]:
        """Speed since the last lap. Call it after reading the metrics of `step`."""
        paused = self.spent["pauses"] - self.paused
        seconds = (time.perf_counter() - self.since - paused) / max(step - self.step, 1)
        self._begin(step)
        speed = {"ms_per_step": 1e3 * seconds, "examples_per_s": self.batch_size / seconds}
        return speed | ({"mfu": self.flops / seconds / self.peak} if self.peak else {})

    def pause(self, seconds: float) -> None:
        """Subtracts time since the last lap that was not training."""
        self.spent["pauses"] += seconds


class Tracer:
    """A profiler trace of the dispatches that overlap the steps of `profile`, written for TensorBoard."""

    def __init__(self, profile: Profile, directory: epath.Path):
        self.profile, self.directory, self.running = profile, os.fspath(directory), False

    def before(self, step: int, steps_per_call: int) -> None:
        """Call it before the dispatch of the steps [step, step + steps_per_call)."""
        start, end = self.profile.start, self.profile.start + self.profile.steps
        overlaps = start < min(end, step + steps_per_call) and step < end and self.profile.steps > 0
        if overlaps and not self.running:
            jax.profiler.start_trace(self.directory)
            self.running = True
        elif not overlaps:
            self.close()

    def close(self) -> None:
        """Waits for the dispatched work, then writes the trace if one is open."""
        if self.running:
            jax.effects_barrier()
            jax.profiler.stop_trace()
            self.running = False
