"""`gen-jax check --config=FILE.py[:arg]`: the resolved config, the parameters and the memory, by shapes alone."""

import argparse
import json
import math

import jax

from gen_jax import config
from gen_jax.core.state import path_name
from gen_jax.io import paths
from gen_jax.io.field_text import summary
from gen_jax.settings import defaulted
from gen_jax.training import checks
from gen_jax.training.program import Program
from gen_jax.training.seeds import make


def add_arguments(parser: argparse.ArgumentParser) -> None:
    paths.add_config(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    experiment = config.load(args.config, overrides)
    print(json.dumps(config.to_dict(experiment), indent=2))
    print("differs from the defaults:")
    for field in defaulted(experiment):
        if field.value != field.default:
            print(f"  config.{field.key} = {field.value!r}  (default: {field.default!r})  {summary(field.description)}")
    program = make(experiment)
    program.check()
    print(parameter_table(program))
    print(f"work of one step: {program.flops_per_step() / 1e9:.4g} GFLOP (matrix products and convolutions)")


def parameter_table(program: Program) -> str:
    """One line a parameter: path, shape, dtype, partition spec, size; then totals, bytes, and what trains."""
    lines, count, trained = [], 0, 0
    for name, net in program.shapes.nets.items():
        leaves = jax.tree_util.tree_leaves_with_path(net.params)
        placed = jax.tree.leaves(program.shardings.nets[name].params)
        optimizer = program.optimizers.get(name)
        moves = jax.tree.leaves(optimizer.trainable(net.params)) if optimizer else [False] * len(leaves)
        for (path, leaf), sharding, moving in zip(leaves, placed, moves, strict=True):
            size = math.prod(leaf.shape)
            count, trained = count + size, trained + size * moving
            row = f"{name}/{path_name(path)}"
            lines.append(f"{row:48} {leaf.shape!s:18} {leaf.dtype!s:9} {sharding.spec!s:24} {size:>12,}")
    state = checks.device_bytes(program.shapes, program.shardings)
    data = sum(array.nbytes for array in program.feeder.feed.resident.values())
    lines.append(f"parameters: {count:,}")
    lines.append(f"trained: {trained:,} ({trained / count:.2%})")
    lines.append(f"memory on each device: state {state / 1e6:.2f} MB, resident data {data / 1e6:.2f} MB")
    parts, (device, _) = checks.needed(program), checks.available()
    lines.append(f"at least {sum(parts.values()) / 1e6:.2f} MB of {device / 1e6:.2f} MB; activations come on top")
    return "\n".join(lines)
