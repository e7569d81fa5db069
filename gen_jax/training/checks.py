"""Checks of a config that need shapes alone: memory, networks, evaluators. Nothing is compiled or allocated."""

import functools
import math
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import psutil

from gen_jax import compat
from gen_jax.config import Experiment
from gen_jax.core.gradients import Optimizer
from gen_jax.core.sampling import Sampling
from gen_jax.core.state import PyTree, State, path_name
from gen_jax.errors import ConfigError, RunError, kind_and_line
from gen_jax.runs import metric_tags
from gen_jax.settings import nearest

if TYPE_CHECKING:
    from gen_jax.training.program import Program

INDEX, SAMPLE = 4, 2  # bytes; of a token or a sample of sound at least
PRODUCTS, LOOPS = ("dot_general", "conv_general_dilated"), ("while", "scan")  # XLA keeps what they give
Shapes = dict[str, jax.ShapeDtypeStruct]


def check(program: "Program") -> None:
    """Raises ConfigError if memory, the step, an evaluator or `best` does not fit. Compiles nothing."""
    check_memory(program)
    _check_products(program)
    _check_best(program, reported(program))


# Batches ---------------------------------------------------------------------------------------------------------


def batch_shapes(feed: Any, one: Any, size: int) -> Shapes:
    """The shapes of a batch of `size` rows of `feed`. `one` is the same feed with one row a batch; that row is read."""
    rows = {k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype) for k, v in one.rows(0).items()}
    return jax.eval_shape(feed.assemble, feed.resident, rows)


# Memory ----------------------------------------------------------------------------------------------------------


def available() -> tuple[int, int]:
    """Bytes that a program may use on each device, and on this host. The CPU devices share the host's memory."""
    host, device = host_bytes(), jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    return (stats["bytes_limit"] if stats else host // jax.local_device_count()), host


def host_bytes() -> int:
    """Free bytes of this host, within the limit of its control group. Starts no backend."""
    host = psutil.virtual_memory().available
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            with open(f"/sys/fs/cgroup/{limit}") as most, open(f"/sys/fs/cgroup/{used}") as now:
                host = min(host, int(most.read()) - int(now.read()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return host


def check_drawn(experiment: Experiment) -> None:
    """Raises ConfigError if a generated data set does not fit the host. Starts no backend."""
    size = experiment.data.drawn_bytes
    if experiment.memory_check and size > (host := host_bytes()):
        raise _too_large("data", size, host, "this host")


def needed(program: "Program") -> dict[str, int]:
    """Bytes that a step needs on each device at least, by the config key that they depend on.

    They are the state (parameters, moments, averages), the gradients, the resident data, the row indices of a call, and
    a batch of training or of evaluation. Activations are not counted.
    """
    experiment, seeds = program.experiment, program.experiment.num_seeds
    ways = program.mesh.shape["data"] * program.mesh.shape["fsdp"]
    gradients = max((_bytes_of_gradients(program, name) for name in program.optimizers), default=0)
    row = _nbytes(program.first_batch_shapes) // experiment.batch_size
    return {
        "model": device_bytes(program.shapes, program.shardings) * seeds + gradients,
        "data": sum(array.nbytes for array in program.feeder.feed.resident.values()),
        "steps_per_call": INDEX * experiment.steps_per_call * experiment.batch_size * seeds // ways,
        "batch_size": row * experiment.batch_size // ways,
        "eval_batch_size": row * experiment.eval_batch_size // ways,
    }


def check_memory(program: "Program") -> None:
    """Raises ConfigError if `needed` exceeds what is available. Names the key that needs the most."""
    if not program.experiment.memory_check:
        return
    parts, (device, _) = needed(program), available()
    if (total := sum(parts.values()) - min(parts["batch_size"], parts["eval_batch_size"])) > device:
        key = max(parts, key=parts.__getitem__)
        key = "num_seeds" if key == "model" and program.experiment.num_seeds > 1 else key
        raise _too_large(key, total, device)
    for name, cfg in program.experiment.evals.items():
        draws, host = program.evaluators[name].draws, available()[1]
        if (held := draws * math.prod(program.dataset.info.shape)) > host:
            key = "n" if hasattr(cfg, "n") else "type"
            raise _too_large(f"evals.{name}.{key}", held, host, "this host")


def _too_large(key: str, needed: int, found: int, where: str = "a device") -> ConfigError:
    anyway = "to train anyway, set --config.memory_check=False"
    return ConfigError(f"config.{key}: {_what_fits(needed, found, where)}; {anyway}")


def _what_fits(needed: int, found: int, where: str = "a device") -> str:
    return f"expected what fits the memory of {where}: needed at least {needed:,} bytes, available {found:,}"


def check_draw(program: "Program", n: int, options: Sampling, flag: str) -> None:
    """Raises ConfigError, naming `flag`, if `n` samples do not fit a device or this host. Draws nothing.

    A lower bound of the need: the prompts, the samples, the carry of a loop, the largest result of a matrix product or
    convolution.
    """
    found, ways = min(available()), program.mesh.size
    least = SAMPLE * n * options.size
    if least <= found:  # else they take long to trace, too
        draw = functools.partial(program.model.sample, n=n, options=options)
        jaxpr, samples = jax.make_jaxpr(draw, return_shape=True)(program.shapes, jax.random.key(0))
        largest = max(_results(jaxpr.jaxpr, (*PRODUCTS, *LOOPS)), default=0)
        least = max(least, _nbytes(samples), largest // ways)
    if program.experiment.memory_check and least > found:
        raise ConfigError(f"{flag}: {_what_fits(least, found)}")


def _check_products(program: "Program") -> None:
    """Traces the step. Refuses it if the largest result of a matrix product or convolution does not fit a device."""
    step, args = program.model_without_axis.train_step, (program.shapes, program.first_batch_shapes, program.train_key)
    try:
        jaxpr = jax.make_jaxpr(step)(*args).jaxpr
    except OverflowError as error:
        raise ConfigError(f"config: a number does not fit the step's integers: {kind_and_line(error)}") from error
    largest = max(_results(jaxpr, PRODUCTS), default=0) // program.mesh.size
    if program.experiment.memory_check and largest > (found := available()[0]):
        raise _too_large("batch_size", largest, found)


def _results(jaxpr: Any, names: tuple[str, ...]) -> Iterator[int]:
    """Bytes of the result of each operation with one of these names."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in names:
            yield _nbytes([var.aval for var in eqn.outvars])
        for inner in compat.inner_jaxprs(eqn):
            yield from _results(inner, names)


def _bytes_of_gradients(program: "Program", name: str) -> int:
    params = program.shapes.nets[name].params
    moves = program.optimizers[name].trainable(params)
    chosen = jax.tree.map(lambda x, move: x if move else jax.ShapeDtypeStruct((0,), x.dtype), params, moves)
    placed = program.shardings.nets[name].params
    leaves = zip(jax.tree.leaves(chosen), jax.tree.leaves(placed), strict=True)
    return sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in leaves if x.shape != (0,))


def device_bytes(shapes: PyTree, shardings: PyTree) -> int:
    """Bytes on each device."""
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in leaves)


def _nbytes(shapes: PyTree) -> int:
    return sum(math.prod(x.shape) * getattr(x.dtype, "itemsize", 8) for x in jax.tree.leaves(shapes))


# Networks ----------------------------------------


def check_networks(experiment: Experiment, shapes: State, optimizers: dict[str, Optimizer]) -> None:
    """Raises ConfigError if `config.optim` does not fit the shapes of the networks."""
    for name, optimizer in optimizers.items():
        if name not in shapes.nets:
            raise ConfigError(f"config.optim.{name}: expected networks named {', '.join(shapes.nets)}")
        net = shapes.nets[name]
        paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(net.params)]
        for rule in optimizer.frozen:
            if not any(re.fullmatch(rule, path) for path in paths):
                raise ConfigError(
                    f"config.optim.{name}.freeze: {rule!r} matches no parameter; they are like {paths[0]}"
                )
        if jax.tree.leaves(net.stats) and experiment.optim[name].micro_batches > 1:
            raise ConfigError(f"config.optim.{name}.micro_batches: expected 1 for a model that keeps statistics")


def check_reset(rules: tuple[str, ...], shapes: State) -> None:
    nets = {name: {"params": net.params, "stats": net.stats} for name, net in shapes.nets.items()}
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(nets)]
    for rule in rules:
        if not any(re.fullmatch(rule, path) for path in paths):
            raise ConfigError(f"config.init_from.reset: {rule!r} matches no parameter; they are like {paths[0]}")


# Evaluators ------------------------------------------------------------------------------------------------------


def _traced(program: "Program", name: str) -> PyTree:
    """The shapes of what an evaluator computes from one batch of its split."""
    cfg, dataset = program.experiment.evals[name], program.dataset
    size = program.experiment.eval_batch_size
    batch = batch_shapes(dataset.eval_feed(cfg.split, size), dataset.eval_feed(cfg.split, 1), size)
    key = f"config.evals.{name}"
    try:
        return jax.eval_shape(program.evaluators[name].trace, program.shapes, batch, program.eval_key)
    except RunError:
        raise
    except KeyError as error:
        if error.args[0] in batch:
            raise
        model, have = type(program.model).__name__, ", ".join(batch)
        raise ConfigError(
            f"{key}.split: expected examples with {error}, which {model} reads, those of {cfg.split} have {have}"
        ) from error
    except Exception as error:
        raise ConfigError(f"{key}: {cfg.type} does not fit the split {cfg.split}: {kind_and_line(error)}") from error


def reported(program: "Program") -> dict[str, tuple[str, Any]]:
    """The metrics that evaluators may report, without facts, and the name and config of the evaluator of each.

    Raises:
      ConfigError: an evaluator does not fit its split.
    """
    known: dict[str, tuple[str, Any]] = {}
    for name, cfg in program.experiment.evals.items():
        head, found = f"{metric_tags.head(cfg.split)}/{cfg.prefix}", _traced(program, name)
        known |= {head + one: (name, cfg) for one in program.evaluators[name].names(found)}
    return known


def _check_best(program: "Program", known: dict[str, tuple[str, Any]]) -> None:
    """Refuses a `best` that no evaluator reports in training. Warns of one that reads the test split."""
    metric = program.experiment.best.metric
    if not metric:
        return
    name, cfg = known.get(metric_tags.name_of(metric), ("", None))
    if cfg is None:
        raise ConfigError(
            f"config.best.metric: expected one of {', '.join(known)}, got {metric!r}{nearest(metric, known)}"
        )
    if cfg.when != "always":
        raise ConfigError(f"config.evals.{name}.when: expected always for config.best.metric {metric}, got {cfg.when}")
    if "test" in cfg.split.split("+"):
        print(
            f"warning: config.best.metric: {metric} reads the test split, which no choice should depend on; "
            f"config.evals.{name}.split=validation is for that",
            file=sys.stderr,
        )
