"""A runnable experiment: data, model, mesh, shardings and the compiled step.

`train`, `eval`, `sample`, `check` and `bench` all start from `Program(experiment)`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from gen_jax import config, data, evaluators
from gen_jax.config import Experiment
from gen_jax.core import ops, optim
from gen_jax.core.gradients import Optimizer
from gen_jax.core.sampling import Sampling, updated
from gen_jax.core.state import Mean, State
from gen_jax.data.datasets import has_split
from gen_jax.errors import ConfigError, first_line, kind_and_line
from gen_jax.evaluators.evaluator import Context, Evaluator
from gen_jax.parallel import pmap, sharding
from gen_jax.training import checks, flops
from gen_jax.training.feeder import Feeder


class Program:
    """One experiment on the devices at hand. The constructor starts the backend but compiles nothing.

    Args:
      experiment: a resolved config.
      dataset: replaces `experiment.data`, for a second stage whose inputs are computed.
      poll: called between the batches of an evaluation; may raise to end it early.
      tokenizer_file: the tokenizer that the run began with; replaces the one of `experiment.data`.
      devices: replaces the local devices. A program for the devices of a topology can only be compiled.

    Raises:
      ConfigError: the devices, the batch or the rules do not fit; before anything is compiled.
      DataError: the data are missing.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Any = None,
        poll: Callable[[], None] = lambda: None,
        tokenizer_file: str = "",
        devices: Sequence[Any] | None = None,
    ):
        self.experiment, self.poll, self.profile = experiment, poll, experiment.profile
        self.spent: dict[str, float] = {"pauses": 0.0}  # seconds
        self.dataset = dataset or _load(experiment, tokenizer_file)
        self.mesh = _mesh(experiment, devices)
        self.set_keys(experiment.seed)
        self.feeder = Feeder(experiment, self.dataset, self.mesh)
        self.pmapped = experiment.parallel == "pmap"
        self.model, self.optimizers = _model(experiment, pmap.AXIS if self.pmapped else None)
        self._init = functools.partial(self.model.init, self.init_key)
        experiment.model.check_data(self.dataset.info)
        try:
            self.shapes = jax.eval_shape(self._init, self.first_batch_shapes)
        except (OverflowError, MemoryError) as error:
            raise ConfigError(f"config.model: larger than any machine: {first_line(error)}") from error
        checks.check_networks(experiment, self.shapes, self.optimizers)
        checks.check_reset(experiment.init_from.reset, self.shapes)
        self.shardings = sharding.state_shardings(self.shapes, experiment.sharding, self.mesh)
        self.abstract = sharding.with_shardings(self.shapes, self.shardings)
        if self.pmapped:
            pmap.check(self.shapes, experiment.sharding, self.mesh)

    def set_keys(self, seed: int) -> None:
        """Derives the keys of the run from its seed."""
        self.init_key, self.train_key, self.eval_key = jax.random.split(jax.random.key(seed), 3)

    def init(self) -> State:
        """The first state, initialized in its shardings."""
        feed = self.feeder.feed

        def init(resident, rows):
            return self._init(feed.assemble(resident, rows))

        resident = feed.resident if self.pmapped else self.feeder.resident
        return jax.jit(init, out_shardings=self.shardings)(resident, feed.rows(0))

    def check(self) -> None:
        """Raises ConfigError if memory, an evaluator, the step or `best` does not fit. Compiles nothing."""
        checks.check(self)

    @functools.cached_property
    def first_batch_shapes(self) -> dict:
        """The shapes of a training batch. Allocates nothing of its size."""
        return checks.batch_shapes(self.feeder.feed, self.dataset.train_feed(1), self.experiment.batch_size)

    @functools.cached_property
    def model_without_axis(self) -> Any:
        """The model outside pmap."""
        return _model(self.experiment, axis_name=None)[0] if self.pmapped else self.model

    def enter(self, state: State) -> State:
        """From the layout of checkpoints and evaluators to the step's."""
        return pmap.replicate(state, self.mesh) if self.pmapped else state

    def leave(self, state: State) -> State:
        """Undoes `enter`."""
        return pmap.unreplicate(state, self.mesh) if self.pmapped else state

    def step(self, state: State, step: int) -> tuple[State, dict[str, Mean]]:
        """`steps_per_call` updates from `step` on. `state` is donated. Metrics are `[K]`, still on the device."""
        return self.compiled_step(state, self.feeder.resident, self.feeder.rows(step))

    @functools.cached_property
    def compiled_step(self) -> Callable:
        """(state, resident, rows [K, B]) -> (state, metrics [K]), one dispatch."""
        train_step, assemble = self.model.train_step, self.feeder.feed.assemble
        if self.pmapped:
            return pmap.compile_step(functools.partial(k_steps, train_step, assemble), self.train_key, self.mesh)

        def gathered_step(state, batch, rng):
            return train_step(sharding.gathered(state, self.shardings), batch, rng)

        def on_mesh(state, resident, rows):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # what `ops.constrain` reads
                return k_steps(gathered_step, assemble, state, resident, rows, self.train_key)

        return jax.jit(on_mesh, donate_argnums=0, out_shardings=(self.shardings, sharding.replicated(self.mesh)))

    def flops_per_step(self, recomputed: bool = False) -> float:
        """FLOPs of the matrix products and convolutions of one update, over all devices. See `flops.count`.

        Traced as for a TPU on every platform: loops stay loops, and no attention kernel hides its work.
        """
        step = self.model_without_axis.train_step
        with ops.compiling_for("tpu"):
            return flops.count(step, self.shapes, self.first_batch_shapes, self.train_key, recomputed=recomputed)

    def batches(self, split: str) -> Iterator[dict]:
        """Every example of a split once, in order, as device batches sharded over the devices."""
        return self.feeder.batches(split, self.poll)

    @functools.cached_property
    def context(self) -> Context:
        """What an evaluator may use of this program."""
        tokenizer, sizes = self.dataset.tokenizer, self.dataset.sizes
        return Context(
            model=self.model,
            info=self.dataset.info,
            batches=self.batches,
            batch_size=self.experiment.eval_batch_size,
            decode_text=tokenizer.decode if tokenizer else None,
            encode_text=tokenizer.encode if tokenizer else None,
            count_bytes=tokenizer.num_bytes if tokenizer else None,
            rng=self.eval_key,
            poll=lambda: self.poll(),
            size=lambda split: sum(sizes[part] for part in has_split(split, sizes)),
            sampling=self.sampling,
            prepared=self.prepared,
        )

    def sampling(self, section: Mapping[str, Any], key: str = "config.sampling") -> Sampling:
        """`config.sampling` with the fields that a section changes. Raises ConfigError, which names the key."""
        return updated(self.experiment.sampling, self.experiment.model, section, key)

    def prepared(self, options: Sampling, key: str = "config.sampling") -> Sampling:
        """Options completed from the data, as the model's `sample` takes them. Raises ConfigError as `sampling`."""
        tokenizer = self.dataset.tokenizer
        try:
            return options.prepared(self.dataset.info, tokenizer.encode if tokenizer else None)
        except ValueError as error:
            raise ConfigError(f"{key}.{error}") from None

    @functools.cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """The config's evaluators by name. Raises ConfigError if the model lacks an ability or the data a split."""
        for name, cfg in self.experiment.evals.items():
            for split in cfg.splits:
                has_split(split, self.dataset.sizes, f"config.evals.{name}.split")
                self.dataset.eval_feed(split, self.experiment.eval_batch_size)  # refuses what does not fit
        return {name: evaluators.build(cfg, self.context) for name, cfg in self.experiment.evals.items()}


def _load(experiment: Experiment, tokenizer_file: str) -> Any:
    """The data set, in the tokens that the run began with. Raises ConfigError if its tokens have changed."""
    source = experiment.data
    if tokenizer_file and "tokenizer_file" in type(source).model_fields:
        source = source.model_copy(update={"tokenizer_file": tokenizer_file})
    checks.check_drawn(experiment)
    try:
        dataset = data.load(source, experiment.seed)
    except (MemoryError, OverflowError) as error:
        raise ConfigError(f"config.data: larger than this machine can hold: {kind_and_line(error)}") from error
    tokenizer = dataset.tokenizer
    if tokenizer_file and (tokenizer is None or tokenizer.to_json() != epath.Path(tokenizer_file).read_text()):
        raise ConfigError(f"config.data: expected the tokeniser that the run began with, {tokenizer_file}")
    return dataset


def _mesh(experiment: Experiment, devices: Sequence[Any] | None) -> jax.sharding.Mesh:
    try:
        backend = ops.platform()
    except (RuntimeError, AssertionError) as error:
        line = first_line(error)
        raise ConfigError(f"JAX_PLATFORMS: expected a platform that is here: {line}") from None
    if experiment.platform not in ("any", backend):
        raise ConfigError(f"config.platform: expected {experiment.platform}, found only {backend}")
    mesh = sharding.make_mesh(experiment.mesh, devices)
    size = mesh.shape["data"] * mesh.shape["fsdp"]
    for key in ("batch_size", "eval_batch_size"):
        if getattr(experiment, key) % size:
            raise ConfigError(f"config.{key}: expected a multiple of {size}, the mesh's data x fsdp")
    return mesh


def _model(experiment: Experiment, axis_name: str | None) -> tuple[Any, dict[str, Optimizer]]:
    optimizers = {}
    for name, cfg in experiment.optim.items():
        per_step, fused = experiment.updates_per_step(name), getattr(experiment.model, "fused", {})
        updates = experiment.total_steps * per_step
        optimizers[name] = optim.build(cfg, updates, axis_name, experiment.seed, per_step, fused, name)
    return config.model_module(experiment.model_name).from_config(experiment.model, optimizers), optimizers


def k_steps(train_step: Any, assemble: Any, state: State, resident: dict, rows: dict, rng: jax.Array):
    """A training step for each of the rows [K, B, ...]. Metrics are `[K]`."""

    def body(state, row):
        batch = jax.tree.map(lambda x: ops.constrain(x, ops.ROWS), assemble(resident, row))
        return train_step(state, batch, rng)

    return ops.scan(body, state, rows)
