"""`gen-jax compare --metric=test/fid RUN RUN ...`: the last value of one metric of several runs, as a table.

Refused where the values were not measured alike: other features, numbers of images, data or resizing.
"""

import argparse

from gen_jax import protocol
from gen_jax.errors import ConfigError
from gen_jax.run_dir import RunDir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", required=True, help="a tag of metrics.jsonl, or what stands before its @")
    parser.add_argument("runs", nargs="+", help="run directories")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    found = [(workdir, *last(RunDir(workdir), args.metric)) for workdir in args.runs]
    first, _, tag, _ = found[0]
    for workdir, _, other, _ in found[1:]:
        if unlike := protocol.difference(tag, other):
            raise ConfigError(f"compare: {args.metric} is not alike in {first} and {workdir}: {unlike}")
    print(tag)
    width = max(len(workdir) for workdir, *_ in found)
    for workdir, step, _, value in found:
        print(f"{workdir:{width}}  step {step:>9}  {'not finite' if value is None else f'{value:.6g}'}")


def last(run_dir: RunDir, metric: str) -> tuple[int, str, float | None]:
    """Step, whole tag and value of a metric in the last row that has it; what `gen-jax eval` found counts too.

    Of several rows of one step the newest is the last, and `gen-jax eval` comes after training.

    Raises:
      ConfigError: no run is here, no row has the metric, or the name means several.
    """
    run_dir.config()
    rows = [*run_dir.rows(), *RunDir(run_dir.path / "eval").rows()]
    for row in sorted(rows, key=lambda row: row["step"])[::-1]:
        tags = protocol.find(metric, list(row))
        if len(tags) > 1:
            raise ConfigError(f"compare: --metric: expected one of {', '.join(tags)}, got {metric!r}")
        if tags:
            return row["step"], tags[0], row[tags[0]]
    raise ConfigError(f"compare: {run_dir.path} has no {metric}")
