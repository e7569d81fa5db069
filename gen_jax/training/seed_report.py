"""Means and deviations over the seeds of a run, written beside their run directories."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen_jax.errors import ConfigError
from gen_jax.io import json_text
from gen_jax.runs import metric_tags, plots, tables
from gen_jax.runs.log import Writer
from gen_jax.runs.plots import STD
from gen_jax.runs.run_dir import RunDir, write_atomic
from gen_jax.runs.tensorboard import tensorboard_command
from gen_jax.training.report import hparams

Row = dict[str, Any]
TABLE = "seeds.csv"


def folders(run_dir: RunDir, key: str = "workdir") -> dict[int, RunDir]:
    """The run directory of each seed, by its number; `key` is what names `run_dir`, for an error.

    Raises:
      ConfigError: no run is here, or its config.json is no whole config.
    """
    config = run_dir.config(key)
    try:
        seeds = range(config["seed"], config["seed"] + config["num_seeds"])
    except (KeyError, TypeError):
        raise ConfigError(f"{key}: {run_dir.config_file} is no config: expected integers seed, num_seeds") from None
    return {seed: RunDir(run_dir.path / f"seed_{seed}", run_dir.trust, run_dir.override) for seed in seeds}


def only(run_dir: RunDir, key: str = "workdir") -> RunDir:
    """`run_dir`, if it holds one seed. Raises ConfigError, which names `key`, if it holds several, or no run."""
    each = list(folders(run_dir, key).values())
    if len(each) > 1:
        raise ConfigError(f"{key}: expected one run, {run_dir.path} holds {len(each)} seeds: {each[0].path}, ...")
    return run_dir


class SeedReport:
    """metrics.jsonl, events for TensorBoard, samples/ and seeds.csv of a run with several seeds; a context manager.

    A row of metrics.jsonl has the mean of each metric under the metric's own tag. Its deviation (n - 1) has the tag
    `std/<tag>`, and `seeds` counts the seeds. A metric is included if all seeds with a row of that step have it. A row
    is a function of the seeds' own rows. At the end the losses are drawn, and seeds.csv gets a line for each seed.

    Args:
      run_dir: the directory of the whole run.
      folders: as `folders` gives them.
    """

    def __init__(self, run_dir: RunDir, folders: Mapping[int, RunDir]):
        self.run_dir, self.folders = run_dir, folders
        self.writer: Writer | None = None
        self.offsets = dict.fromkeys(folders, 0)  # bytes of metrics.jsonl that were read
        self.waiting: dict[int, list[Row]] = {}
        self.written = -1
        config = run_dir.config()
        self.periods = [config[name] for name in ("log_every", "eval_every") if config[name]]

    def __enter__(self) -> "SeedReport":
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer:
            self.writer.write_images(max(self.written, 0), plots.of_a_run(self.run_dir.rows()))
            self.writer.close()
        write_atomic(self.run_dir.path / TABLE, tables.to_csv(states(self.folders)))

    def update(self, step: int | None) -> None:
        """Writes the rows up to `step` that are not written yet, or all rows. No seed may still add to these."""
        if self.writer and step is not None and all(step % every for every in self.periods):
            return
        if self.writer is None:  # the seeds continue from here, and may write other rows than before
            self.run_dir.truncate_after(sys.maxsize if step is None else step)
            rows = self.run_dir.rows()
            self.written = rows[-1]["step"] if rows else -1
            self.writer = Writer(self.run_dir, self.written + 1)
            if self.written < 0:
                self.writer.write_hparams(hparams(self.run_dir.config()))
        self._read()
        for at in sorted(at for at in self.waiting if step is None or at <= step):
            rows = self.waiting.pop(at)
            if at > self.written:
                self.writer.write_scalars(at, merged(rows))
                self.writer.end_step(at)
                self.written = at

    def _read(self) -> None:
        for seed, folder in self.folders.items():
            if not folder.metrics.exists():
                continue
            with folder.metrics.open("rb") as file:
                file.seek(self.offsets[seed])
                text = file.read()
            self.offsets[seed] += len(text)
            for line in text.splitlines():
                row = json_text.loads(line)
                self.waiting.setdefault(row["step"], []).append(row)


def merged(rows: list[Row]) -> Row:
    """The mean, `std/` deviation and number of several seeds' rows of one step, without the step."""
    tags = [tag for tag in rows[0] if tag != "step" and all(tag in row for row in rows)]
    found: Row = {"seeds": len(rows)}
    for tag in tags:
        values = np.array([np.nan if row[tag] is None else row[tag] for row in rows], np.float64)
        found[tag] = values.mean()
        if len(rows) > 1:
            found[f"{STD}{tag}"] = values.std(ddof=1)
    return found


def states(folders: Mapping[int, RunDir]) -> list[Row]:
    """A row for each seed: seed, state, step, and the last value of each metric."""
    table = []
    for seed, folder in folders.items():
        last: Row = {}
        for row in folder.rows():
            last |= row
        status = {"state": folder.status().get("state", "new"), "step": last.pop("step", 0)}
        table.append({"seed": seed, **status, **last})
    return table


def summary(run_dir: RunDir, name: str) -> str:
    """A table of mean, deviation and range over the seeds, for the last evaluation."""
    table = states(folders(run_dir))
    last = {tag: [row.get(tag) for row in table] for tag in table[0] if tag not in ("seed", "state", "step")}
    evaluated = {tag: values for tag, values in last.items() if not tag.startswith("train/")} or last
    cells = [["", "mean", "deviation", "lowest", "highest"]]
    for tag, values in evaluated.items():
        values = np.array([value for value in values if value is not None], np.float64)
        if len(values) > 1:
            numbers = values.mean(), values.std(ddof=1), values.min(), values.max()
            part = f" ({len(values)} of {len(table)} seeds)" if len(values) < len(table) else ""
            cells.append([metric_tags.name_of(tag) + part, *(f"{number:.5g}" for number in numbers)])
    lines = [f"done: {len(table)} seeds in {name}, trained to step {max(row['step'] for row in table)}"]
    lines += [f"  {line}" for line in tables.aligned(cells)]
    return "\n".join([*lines, f"each seed: {run_dir.path / TABLE}", f"curves: {tensorboard_command(name)}"])
