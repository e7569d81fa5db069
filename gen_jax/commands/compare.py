"""`gen-jax compare --table RUN RUN ...` or `--metric=test/fid RUN RUN ...`: runs side by side.

A table has runs of any family: parameters, minutes, likelihood, quality of samples, speed. `--out=FOLDER` writes it
as table.md and table.csv, and the runs' grids of samples as samples.png. `--metric` prints the last value of one
metric, and the keys in which the configs differ.

Both read what the runs recorded. Other features, numbers of images, data or resizing: `--metric` refuses such numbers,
a table marks them. Runs on other data are refused.
"""

import argparse
import json
from typing import Any

from gen_jax.commands import outputs
from gen_jax.commands.overview import overview
from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.io.disk import write_atomic
from gen_jax.io.gcs import absolute
from gen_jax.runs import metric_tags, plots
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--metric", help="a tag of metrics.jsonl, or the part before its @")
    what.add_argument("--table", action="store_true", help="all that runs of any family have in common")
    parser.add_argument("--split", help="of the table (default test)")
    parser.add_argument("--out", type=paths.flag, help="a folder for table.md, table.csv and samples.png")
    parser.add_argument("--accept_data", action="store_true", help="mark the numbers of runs on other data")
    parser.add_argument("runs", nargs="+", type=paths.flag, help="run directories")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    if args.table:
        _table(args)
        return
    for name in ("split", "out", "accept_data"):
        if getattr(args, name):
            raise ConfigError(f"--{name}: expected none beside --metric; a table reads it")
    _metric(args)


def _table(args: argparse.Namespace) -> None:
    folder = outputs.made(absolute(args.out)) if args.out else None
    found = overview(args.runs, args.split or "test", args.accept_data)
    print(found.terminal())
    if folder:
        files = {"table.md": found.markdown(), "table.csv": found.csv(), "samples.png": plots.png(found.picture())}
        for name, content in files.items():
            write_atomic(folder / name, content)
        print(f"{', '.join(files)} in {args.out}")


def _metric(args: argparse.Namespace) -> None:
    found = [(workdir, *last(RunDir(workdir), args.metric)) for workdir in args.runs]
    first, _, tag, _ = found[0]
    for workdir, _, other, _ in found[1:]:
        if unlike := metric_tags.difference(tag, other):
            raise ConfigError(f"compare: {args.metric} was measured differently in {first} and {workdir}: {unlike}")
    rows = [("run", "step", tag)]
    rows += [(run, str(step), "not finite" if value is None else f"{value:.6g}") for run, step, _, value in found]
    print(aligned(rows))
    if unlike := differences([flat(RunDir(workdir).config()) for workdir in args.runs]):
        print("\nconfigs differ in")
        print(aligned(unlike))


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Rows of text with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def flat(section: Any, prefix: str = "") -> dict[str, str]:
    """{"optim.net.lr": "0.001"} of a config."""
    if not isinstance(section, dict) or not section:
        return {prefix: json.dumps(section)}
    pieces = [flat(value, f"{prefix}.{key}".lstrip(".")) for key, value in section.items()]
    return {key: value for piece in pieces for key, value in piece.items()}


def differences(configs: list[dict[str, str]]) -> list[tuple[str, ...]]:
    """A row (key, value in each config) for every key in which they differ."""
    keys = {key: None for config in configs for key in config}  # in order
    rows = [(key, *(config.get(key, "absent") for config in configs)) for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def last(run_dir: RunDir, metric: str) -> tuple[int, str, float | None]:
    """Step, whole tag and value of a metric in the last row that has it; what `gen-jax eval` found counts too.

    Of several rows of one step the newest is the last, and `gen-jax eval` comes after training.

    Raises:
      ConfigError: no run is here, no row has the metric, or the name means several.
    """
    run_dir.config()
    rows = [*run_dir.rows(), *RunDir(run_dir.path / "eval").rows()]
    for row in sorted(rows, key=lambda row: row["step"])[::-1]:
        tags = metric_tags.find(metric, list(row))
        if len(tags) > 1:
            raise ConfigError(f"compare: --metric: expected one of {', '.join(tags)}, got {metric!r}")
        if tags:
            return row["step"], tags[0], row[tags[0]]
    known = {metric_tags.name_of(tag) for row in rows for tag in row if tag != "step"}
    raise ConfigError(f"compare: {run_dir.path} has no {metric}{nearest(metric, known) if known else ''}")
