"""Runs of any family side by side, from what they recorded: sizes, likelihoods, sample quality, speed. Computes none.

Numbers that were not measured alike are marked, and a note says what differs.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from gen_jax import config
from gen_jax.data.fingerprint import differences
from gen_jax.errors import ConfigError
from gen_jax.io import json_text, paths
from gen_jax.runs import grids, manifest, metric_tags, plots, tables
from gen_jax.runs.plots import STD
from gen_jax.runs.run_dir import RunDir

GREY = 256  # levels of a pixel, of models whose config has no `levels`
SAMPLING = "sampling."  # facts of the model, not of the measurement
# metric, bits/dim of it, and what it is; the first that a run has is shown
LIKELIHOODS = (
    ("log_prob", "bits_per_dim", "exact"),
    ("log_likelihood", "log_likelihood_bits_per_dim", "estimate"),
    ("elbo", "bits_per_dim", "bound"),
)
QUALITY = ("fid", "kid", "precision", "recall", "density", "coverage")
SPEED = ("samples_per_s", "network_evaluations")
_EVAL = "`gen-jax eval --workdir=RUN --config.evals.NAME.type={}`"
# column -> what gives it
SOURCES = {
    "parameters": "manifest.json, which older versions of gen_jax wrote without it",
    "minutes": "the log of a run (config.log_every)",
    **dict.fromkeys(("nats", "bits/dim"), f"{_EVAL.format('mean')}, of models with a likelihood of pixel values"),
    **dict.fromkeys(QUALITY, _EVAL.format("generation")),
    **dict.fromkeys(SPEED, _EVAL.format("speed")),
}
COLUMNS = ("run", "model", "conditioned on", *SOURCES)
MEANING = {
    "minutes": "of training, without evaluations",
    "nats": "log P(image) in the mean over the split: exact, a bound from below, or an estimate by `log_likelihood`",
    "network_evaluations": "rows that networks are given for one sample",
}


class Value(NamedTuple):
    """A cell. facts: how it was measured, as in a tag. note: beside the number."""

    number: float
    facts: dict[str, str]
    note: str = ""
    deviation: float | None = None

    @property
    def text(self) -> str:
        number = f"{self.number:,.0f}" if abs(self.number) >= 1_000 else f"{self.number:.4g}"
        spread = "" if self.deviation is None else f" +- {self.deviation:.2g}"
        return f"{number}{spread} {self.note}".rstrip()


class Recorded:
    """What a run recorded, and a later `gen-jax eval` of it.

    Args:
      whole_path: names the run by its path, not by its folder alone.

    Raises:
      ConfigError: no run is here.
    """

    def __init__(self, workdir: str, split: str, whole_path: bool = False):
        self.run, self.eval = RunDir(workdir), RunDir(epath.Path(workdir) / "eval")
        self.experiment, self.head = config.resolve(self.run.config()), metric_tags.head(split)
        self.name = paths.shortest(self.run.path) if whole_path else self.run.path.name
        rows = sorted([*self.run.rows(), *self.eval.rows()], key=lambda row: row["step"])
        timings = [*self.run.timings(), *self.eval.timings()]
        self.own = self.experiment.sampling.facts()
        self.newest = {tag: value for row in [*rows, *timings] for tag, value in row.items()}

    def find(self, name: str, sampled: bool = True) -> list[Value]:
        """The newest values of a metric; several if it was measured in several ways.

        Args:
          sampled: it is of samples; those of the run's own sampling count.
        """
        found = []
        for tag in metric_tags.find(f"{self.head}/{name}", list(self.newest)):
            facts = metric_tags.facts_of(tag)
            asked = {key: value for key, value in facts.items() if key.startswith(SAMPLING)}
            if asked == (self.own if sampled else {}) and (value := self.newest[tag]) is not None:
                how = {key: value for key, value in facts.items() if not key.startswith(SAMPLING)}
                found.append(Value(value, how, deviation=self.newest.get(f"{STD}{tag}")))
        return found

    def likelihood(self) -> dict[str, Value]:
        """`nats` and `bits/dim`, of discrete pixels alone."""
        for metric, in_bits, kind in LIKELIHOODS:
            nats, found = self.find(metric, sampled=False), self.find(in_bits, sampled=False)
            if nats and found:
                facts = {"grey levels": str(getattr(self.experiment.model, "levels", GREY))}
                pairs = {"nats": nats[-1], "bits/dim": found[-1]}
                return {name: value._replace(facts=facts, note=kind) for name, value in pairs.items()}
        return {}

    def sizes(self) -> dict[str, Value]:
        """`parameters` of all networks, and `minutes` of training."""
        found = {}
        for start in manifest.starts(self.run.manifest_file):
            if "parameters" in start:
                found["parameters"] = Value(sum(start["parameters"].values()), {})
        laps = [(row["step"], row["ms_per_step"]) for row in self.run.timings() if row.get("ms_per_step") is not None]
        if laps:
            steps = np.diff([0, *(step for step, _ in laps)])
            found["minutes"] = Value(float(steps @ [ms for _, ms in laps]) / 60e3, {})
        return found

    def picture(self) -> np.ndarray | None:
        """The newest grid of samples of the evaluator `pictures`; None where there is none."""
        found: list[tuple[int, epath.Path]] = []
        for folder in (self.run.samples, self.eval.samples):
            for file in folder.glob("*.png") if folder.exists() else ():
                if named := re.fullmatch(rf"{re.escape(self.head)}_samples_(\d+)\.png", file.name):
                    found.append((int(named[1]), file))
        return plots.read_png(max(found, key=lambda each: each[0])[1].read_bytes()) if found else None

    def data(self) -> dict[str, Any]:
        """The fingerprint of its data. Raises ConfigError if the run has none."""
        if not self.run.data_file.exists():
            raise ConfigError(f"compare: {self.run.path} has no data.json: its data are unknown")
        return json_text.loads(self.run.data_file.read_text())["fingerprint"]


@dataclasses.dataclass
class Overview:
    """A table of runs.

    Attributes:
      cells: of each run, by column; what a run lacks is absent.
      marks: of each run, column -> the number of a note.
      notes: what was not measured alike, and where empty cells come from.
      floor: the same of real images in place of samples, measured as in the first run that says so.
    """

    runs: list[Recorded]
    cells: list[dict[str, Value]]
    marks: list[dict[str, int]]
    notes: list[str]
    floor: dict[str, Value]

    @property
    def columns(self) -> list[str]:
        """Those that any run has."""
        return [*COLUMNS[:3], *(name for name in SOURCES if any(name in row for row in self.cells))]

    def rows(self) -> list[list[str]]:
        """The head, and the text of each run's cells."""
        found = [self.columns]
        for run, cells, marks in zip(self.runs, self.cells, self.marks, strict=True):
            classes = "class" if getattr(run.experiment.model, "num_classes", 0) else "-"
            row = [run.name, run.experiment.model_name, classes]
            for name in self.columns[3:]:
                mark = f" [{marks[name]}]" if name in marks else ""
                row.append(f"{cells[name].text}{mark}" if name in cells else "")
            found.append(row)
        if self.floor:
            numbers = [self.floor[name].text if name in self.floor else "" for name in self.columns[3:]]
            found.append(["(real images)", "-", "-", *numbers])
        return found

    def terminal(self) -> str:
        return "\n".join([*tables.aligned(self.rows()), "", *self.notes])

    def markdown(self) -> str:
        head, *rows = self.rows()
        lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]) + "\n"

    def csv(self) -> str:
        """Numbers in full, `likelihood` of its own, and in `notes` what was not measured alike."""
        found = []
        for row, cells, marks in zip(self.rows()[1:], self.cells, self.marks, strict=False):
            numbers = {name: cells[name].number if name in cells else "" for name in self.columns[3:]}
            kind = cells["nats"].note if "nats" in cells else ""
            noted = "; ".join(self.notes[i - 1] for i in sorted(set(marks.values())))
            found.append({**dict(zip(COLUMNS, row[:3], strict=False)), **numbers, "likelihood": kind, "notes": noted})
        return tables.to_csv(found)

    def picture(self) -> np.ndarray:
        """The runs' grids of samples side by side."""
        pictures, titles = [run.picture() for run in self.runs], []
        for row, picture in zip(self.rows()[1:], pictures, strict=False):
            fid = row[self.columns.index("fid")] if "fid" in self.columns else ""
            titles.append(row[0] + (f": FID {fid}" if fid else "") + (", no picture" if picture is None else ""))
        return grids.beside(pictures, titles)


def overview(workdirs: Sequence[str], split: str, accept_data: bool) -> Overview:
    """The table of these runs.

    Args:
      accept_data: runs on other data are marked, not refused.

    Raises:
      ConfigError: no run is in a directory, or the data are not those of the first run.
    """
    names = [RunDir(workdir).path.name for workdir in workdirs]
    runs = [Recorded(workdir, split, whole_path=len({*names}) < len(names)) for workdir in workdirs]
    found = Overview(runs, [], [], [], {})
    for run in runs:
        cells = run.sizes() | run.likelihood()
        for name in (*QUALITY, *SPEED):
            if values := run.find(name):
                like = _first(found, name)
                alike = [value for value in values if like and value.facts == like[1].facts]
                cells[name] = (alike or values)[-1]
        found.cells.append(cells)
        found.marks.append({})
    for name in QUALITY:
        floors = [value for run in runs for value in run.find(f"{name}_floor", sampled=False)]
        alike = [value for value in floors if (first := _first(found, name)) and _same_real(value, first[1])]
        found.floor |= {name: alike[0]} if alike else {}
    for i in range(len(runs)):
        _mark(found, i, accept_data)
    _explain(found)
    return found


def _same_real(floor: Value, value: Value) -> bool:
    """Whether both were held against the same images in the same way; the floor may be of fewer."""
    aside = ("of", "n_fake")
    return floor.facts.items() - value.facts.items() <= {(key, floor.facts.get(key)) for key in aside}


def _first(found: Overview, name: str) -> tuple[str, Value] | None:
    """The first run that has a column, and its value."""
    has = [(run.name, cells[name]) for run, cells in zip(found.runs, found.cells, strict=False) if name in cells]
    return has[0] if has else None


def _mark(found: Overview, i: int, accept_data: bool) -> None:
    """Marks what a run measured otherwise than the first run that has it."""
    run = found.runs[i]
    if other := differences(found.runs[0].data(), run.data()):
        line = f"{run.name} has other data than {found.runs[0].name}: {'; '.join(other)}"
        if not accept_data:
            raise ConfigError(f"compare: {line}; --accept_data marks its numbers instead")
        found.notes.append(f"[{len(found.notes) + 1}] {line}")
        found.marks[i] |= dict.fromkeys(found.cells[i].keys() - {"parameters", "minutes"}, len(found.notes))
    unlike: dict[str, list[str]] = {}
    for name, value in found.cells[i].items():
        first = _first(found, name)
        assert first is not None
        if name not in found.marks[i] and (facts := _difference(value.facts, first[1].facts)):
            unlike.setdefault(f"{facts} (of {first[0]})", []).append(name)
    for facts, names in unlike.items():
        found.notes.append(f"[{len(found.notes) + 1}] {', '.join(names)} of {run.name}: {facts}")
        found.marks[i] |= dict.fromkeys(names, len(found.notes))


def _difference(one: dict[str, str], two: dict[str, str]) -> str:
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
    return ", ".join(f"{key} {one.get(key, 'absent')}, not {two.get(key, 'absent')}" for key in keys)


def _explain(found: Overview) -> None:
    """What columns mean, and what the empty cells need."""
    found.notes += [f"{name}: {text}" for name, text in MEANING.items() if name in found.columns]
    empty: dict[tuple[str, str], list[str]] = {}
    for name, source in SOURCES.items():
        lacking = [run.name for run, cells in zip(found.runs, found.cells, strict=True) if name not in cells]
        if lacking:
            empty.setdefault((source, ", ".join(lacking)), []).append(name)
    found.notes += [f"no {', '.join(names)} of {lacking}: from {source}" for (source, lacking), names in empty.items()]
