"""`gen-jax bench --config=FILE.py[:arg] --seconds=5`: times the training step; the last line is JSON.

With several seeds a step is one of each, and rates count all of them. With `--sample=64 --n=16` it times drawing 16
samples of 64 tokens from the untrained model instead, of one seed.
"""

import argparse
import json
import resource
import sys
import time

import jax

from gen_jax import cli, config
from gen_jax.core.sampling import LONGEST, MOST_SAMPLES, Prompted
from gen_jax.errors import ConfigError
from gen_jax.io import paths
from gen_jax.models.base import Autoregressive, sampler
from gen_jax.settings import require_between
from gen_jax.training import checks, flops
from gen_jax.training.program import Program
from gen_jax.training.seeds import make


def add_arguments(parser: argparse.ArgumentParser) -> None:
    paths.add_config(parser)
    parser.add_argument("--seconds", type=float, default=5.0, help="of timed steps, after the warm-up")
    parser.add_argument("--sample", type=int, metavar="LENGTH", help="time sampling of LENGTH tokens instead")
    parser.add_argument("--n", type=int, help="samples drawn at once (default: 1); with --sample")
    parser.add_argument("--deterministic", action="store_true", help="bit-exact on GPU too, and slower")


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    if not 0 < args.seconds < float("inf"):
        raise ConfigError(f"--seconds: expected a positive number, got {args.seconds}")
    for name, value, most in (("sample", args.sample, LONGEST), ("n", args.n, MOST_SAMPLES)):
        if value is not None:
            require_between(f"--{name}", value, 1, most)
    if args.n and not args.sample:
        raise ConfigError("--n: expected none without --sample, whose samples it counts")
    program = make(config.load(args.config, overrides))
    if args.sample and not isinstance(program.model, Autoregressive):
        raise ConfigError(f"--sample: expected a model of tokens, {program.experiment.model_name} is none")
    result = measure_sampling(program, args) if args.sample else measure(program, args.seconds)
    print(json.dumps(result))


def measure_sampling(program: Program, args: argparse.Namespace) -> dict:
    """Times whole generations; a step is one, of `n` samples. Tokens are counted: images have a length of their own."""
    section = {"length": args.sample} if isinstance(program.experiment.sampling, Prompted) else {}
    options, n = program.prepared(program.sampling(section)), args.n or 1
    draw = sampler(program.model, n, options)
    checks.check_draw(program, n, options, "--sample" if args.sample > n else "--n")
    state = program.init()
    jax.block_until_ready(draw(state, jax.random.key(0)))
    first = time.monotonic() - cli.START
    steps, tokens, cpu, wall = 0, 0, time.process_time(), time.perf_counter()
    while steps == 0 or time.perf_counter() - wall < args.seconds:
        samples = jax.block_until_ready(draw(state, jax.random.key(steps)))
        tokens += int(samples[1].sum()) if isinstance(samples, tuple) else samples.size
        steps += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "model": program.experiment.model_name,
        "device": jax.devices()[0].device_kind,
        "ms_per_step": round(1e3 * wall / steps, 4),
        "steps": steps,
        "tokens_per_s": round(tokens / wall, 1),
        "cpu_ms_per_step": round(1e3 * cpu / steps, 4),
        "first_step_s": round(first, 3),
    }


def measure(program: Program, seconds: float) -> dict:
    """Times whole dispatches of `steps_per_call` steps, inputs included; metrics are read about every 10 steps."""
    experiment = program.experiment
    k = experiment.steps_per_call
    state = program.enter(program.init())
    state, metrics = program.step(state, 0)
    jax.block_until_ready(state)
    first = time.monotonic() - cli.START
    for step in (k, 2 * k):
        state, metrics = program.step(state, step)
    jax.block_until_ready(state)
    calls, cpu, wall = 0, time.process_time(), time.perf_counter()
    while calls == 0 or time.perf_counter() - wall < seconds:
        state, metrics = program.step(state, (3 + calls) * k)
        calls += 1
        if calls % max(1, 10 // k) == 0:
            jax.device_get(metrics)
    jax.block_until_ready(state)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    steps = calls * k
    work, executed = program.flops_per_step(), program.flops_per_step(recomputed=True)
    result = {
        "model": experiment.model_name,
        "device": jax.devices()[0].device_kind,
        "ms_per_step": round(1e3 * wall / steps, 4),
        "steps": steps,
        **_rates(program, steps / wall),
        "cpu_ms_per_step": round(1e3 * cpu / steps, 4),
        "gflop_per_step": round(work / 1e9, 4),
        "gflop_counted": "matrix products and convolutions that a step needs, a multiply-add as 2; remat is none",
        "gflop_executed": round(executed / 1e9, 4),
        "params": sum(program.shapes.sizes.values()),
        "first_step_s": round(first, 3),
        "peak_memory_mb": round(_peak_memory() / 1e6, 1),
    }
    peak = flops.peak(program.mesh.devices.flat[0])
    if peak:
        for name, flop in (("mfu", work), ("hfu", executed)):
            result[name] = round(flop * steps / wall / peak / program.mesh.devices.size, 4)
    return result


def _rates(program: Program, steps_per_s: float) -> dict[str, float]:
    batch_size, info = program.experiment.num_seeds * program.experiment.batch_size, program.dataset.info
    if info.kind == "tokens":
        return {"tokens_per_s": round(batch_size * (info.shape[0] - 1) * steps_per_s, 1)}
    if info.kind == "audio":
        return {"samples_per_s": round(batch_size * info.shape[0] * steps_per_s, 1)}
    return {"examples_per_s": round(batch_size * steps_per_s, 1)}


def _peak_memory() -> float:
    """Bytes on the first device where it counts them, of this process otherwise."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return float(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
