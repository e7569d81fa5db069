"""The goal of a sweep among the rows of a run."""

import itertools
from typing import Any

from gen_jax.errors import ConfigError
from gen_jax.runs import metric_tags
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import nearest


def last(rows: list[dict[str, Any]], metric: str) -> tuple[str, float | None]:
    """The whole tag of a metric and its last value, which is None where that is not finite.

    Raises:
      ConfigError: no row has it, or one has several.
    """
    for row in reversed(rows):
        tags = metric_tags.find(metric, list(row))
        if len(tags) > 1:
            raise ConfigError(f"sweep: the goal: expected one of {', '.join(tags)}, got {metric!r}")
        if tags:
            return tags[0], row[tags[0]]
    known = dict.fromkeys(map(metric_tags.name_of, itertools.chain(*rows)))
    raise ConfigError(f"sweep: the goal: no metric {metric!r}{nearest(metric, [*known])}")


def is_measured(run_dir: RunDir, metric: str) -> bool:
    """Whether a run that may continue has the goal in a row.

    Raises:
      ConfigError: it should by now, and has not, so that its name is wrong.
    """
    rows = run_dir.rows()
    if not rows:
        return False
    config, head = run_dir.config(), metric.partition("/")[0]
    every = config["log_every" if head == "train" else "eval_every"]
    late = any(cfg["when"] == "end" and metric_tags.head(cfg["split"]) == head for cfg in config["evals"].values())
    over = rows[-1]["step"] == config["total_steps"]
    due = over or (every > 0 and not late and any(row["step"] % every == 0 for row in rows))
    found = bool(metric_tags.find(metric, [*itertools.chain(*rows)]))
    if found or due:
        last(rows, metric)
    return found
