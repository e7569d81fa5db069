"""`gen-jax plan --config=FILE.py[:arg] --topology=v5e:16x16[,v5e:8x8 ...] [--sweep] [--out=plan.json]`."""

import argparse
import sys
from pathlib import Path

import jax

from gen_jax import config
from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.plan import chips, report, shapes
from gen_jax.plan.planner import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    paths.add_config(parser)
    parser.add_argument(
        "--topology", required=True, help="TPUs, as v5e:16x16; several, with commas: weak scaling, the batch grows too"
    )
    parser.add_argument("--sweep", action="store_true", help="try meshes and batch sizes, and rank those that fit")
    parser.add_argument(
        "--out", type=paths.flag, help="write the plan as JSON; of several topologies a picture beside it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    slices = [chips.parse(name) for name in args.topology.split(",")]
    if args.sweep and len(slices) > 1:
        raise ConfigError(f"--sweep: expected one topology, got {args.topology}")
    out = Path(args.out) if args.out else None
    picture = out.with_name("weak_scaling.png") if out and len(slices) > 1 else None
    for path in filter(None, (out, picture)):
        if path.exists() and not args.overwrite:
            raise ConfigError(f"--overwrite: {path} exists; pass --overwrite to replace it, or another --out")
        if not path.parent.is_dir():
            raise ConfigError(f"--out: expected an existing directory, got {path.parent}")
    jax.config.update("jax_platforms", "cpu")  # devices of this machine have no part in it
    experiment = config.load(args.config, overrides)

    def keep(plans: list[Plan]) -> None:
        """The results so far, in case the next does not fit."""
        if out:
            report.write(out, plans)

    if args.sweep:
        plans = shapes.sweep(args.config, experiment, slices[0], keep)
        print(report.table(plans, slices[0].name))
    else:
        plans = shapes.scale(args.config, experiment, slices, keep)
        print(report.text(plans[0]) if len(plans) == 1 else report.table(plans))
    if picture:
        picture.write_bytes(report.weak_scaling(plans))
    for path in filter(None, (out, picture)):
        print(f"written: {path}", file=sys.stderr)
