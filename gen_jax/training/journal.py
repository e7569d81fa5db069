"""The part of a run's memory that is not in the state: a loop resumes from both as if it had never stopped."""

import dataclasses
import math

from gen_jax.config import Best
from gen_jax.errors import ConfigError
from gen_jax.runs import metric_tags

ALARM = "alarm_"  # begins the names of terms of which the run warns where they are above 0


@dataclasses.dataclass
class Journal:
    """Saved as JSON with every checkpoint, and again after the evaluation of that step.

    Attributes:
      evaluated: the last step that was evaluated.
      best, best_step, best_tag, best_mode: the best value of `config.best`, its step, its whole tag, "min" or "max".
      worse: evaluations since the best one.
      window: name -> [total, weight] over the steps since the last log.
      row: scalars of this step whose row is not written yet.
      open: an evaluation will add to the row.
      rates: the learning rates of this step, if they are scheduled.
      alarms: name -> [total, weight] over the whole run.
    """

    evaluated: int = -1
    best: float | None = None
    best_step: int | None = None
    best_tag: str = ""
    best_mode: str = ""
    worse: int = 0
    window: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    row: dict[str, float] = dataclasses.field(default_factory=dict)
    open: bool = False
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    alarms: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, total: float, weight: float) -> None:
        """Adds a training term of one step."""
        for sums in (self.window, self.alarms) if name.startswith(ALARM) else (self.window,):
            old = sums.get(name, [0.0, 0.0])
            sums[name] = [old[0] + total, old[1] + weight]

    def forget_another_best(self, best: Best) -> None:
        """Forgets the best value if `config.best` names another metric or mode than before."""
        if self.best is None:
            return
        if not metric_tags.find(best.metric, [self.best_tag]) or self.best_mode not in ("", best.mode):
            self.best, self.best_step, self.best_tag, self.worse = None, None, "", 0

    def judge(self, best: Best, scalars: dict[str, float], step: int) -> None:
        """Compares the metric that `best` names, among the tagged scalars of an evaluation, with the best so far.

        Raises:
          ConfigError: the metric is missing, ambiguous, or was measured in another way than the best one.
        """
        if not best.metric:
            return
        tags = metric_tags.find(best.metric, list(scalars))
        if len(tags) != 1:
            known = ", ".join(tags or map(metric_tags.name_of, scalars))
            raise ConfigError(f"config.best.metric: expected one of {known}, got {best.metric!r}")
        tag, old = tags[0], self.best
        if old is not None and (unlike := metric_tags.difference(self.best_tag or tag, tag)):
            raise ConfigError(
                f"config.best.metric: {best.metric} is not measured as the best one was: {unlike}; to start anew, name "
                f"the whole tag: {tag}"
            )
        value, self.best_tag, self.best_mode = scalars[tag], tag, best.mode
        better = old is None or (value < old if best.mode == "min" else value > old)
        if math.isfinite(value) and better:
            self.best, self.best_step, self.worse = value, step, 0
        else:
            self.worse += 1
