"""An experiment made ready to run: data, model, mesh, shardings and the compiled step.

`train`, `eval`, `sample`, `check` and `bench` all start from `Program(experiment)`.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from gen_jax import config, data, evaluators, flops, ops, optim, pmap, sharding
from gen_jax.config import Experiment
from gen_jax.errors import ConfigError
from gen_jax.evaluators.base import Context, Evaluator
from gen_jax.models.base import Optimiser, Preprocesses
from gen_jax.state import Mean, State


def _stack(rows: list[dict]) -> dict:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


class Program:
    """One experiment on the devices at hand. Building it starts the backend but compiles nothing.

    Args:
      experiment: a resolved config.
      dataset: instead of `experiment.data`'s, for a second stage whose inputs are computed.
      poll: called between the batches of an evaluation; may raise to end it early.

    Raises:
      ConfigError: the devices, the batch or the rules do not fit; before anything is compiled.
      DataError: the data are missing.
    """

    def __init__(self, experiment: Experiment, dataset: Any = None, poll: Callable[[], None] = lambda: None):
        self.experiment, self.poll = experiment, poll
        self.dataset = dataset or data.load(experiment.data, experiment.seed)
        self.mesh = _mesh(experiment)
        init_key, self.train_key, self.eval_key = jax.random.split(jax.random.key(experiment.seed), 3)
        self.feed = self.dataset.train_feed(experiment.batch_size)
        self.pmapped = experiment.parallel == "pmap"
        self.model, self.optimisers = _model(experiment, pmap.AXIS if self.pmapped else None)
        self._init = functools.partial(self.model.init, init_key)
        first = self.feed.assemble(self.feed.resident, self.feed.rows(0))
        self.shapes = jax.eval_shape(self._init, first)
        self.shardings = sharding.state_shardings(self.shapes, experiment.sharding, self.mesh, self.optimisers)
        self.abstract = sharding.with_shardings(self.shapes, self.shardings)
        if self.pmapped:
            pmap.check(self.shapes, experiment.sharding, self.mesh)

    @functools.cached_property
    def resident(self) -> dict:
        """The training arrays that stay on the devices."""
        resident = jax.device_put(self.feed.resident, sharding.replicated(self.mesh))
        return pmap.replicate(resident, self.mesh) if self.pmapped else resident

    def init(self) -> State:
        """The first state, born sharded."""
        batch = jax.jit(self.feed.assemble)(self.feed.resident, self.feed.rows(0))
        return jax.jit(self._init, out_shardings=self.shardings)(batch)

    def enter(self, state: State) -> State:
        """From the layout of checkpoints and evaluators to the step's."""
        return pmap.replicate(state, self.mesh) if self.pmapped else state

    def leave(self, state: State) -> State:
        """Undoes `enter`."""
        return pmap.unreplicate(state) if self.pmapped else state

    def step(self, state: State, step: int) -> tuple[State, dict[str, Mean]]:
        """`steps_per_call` updates from `step` on; `state` is donated. Metrics are `[K]`, still on the device."""
        return self.compiled_step(state, self.resident, self.rows(step))

    def rows(self, step: int) -> dict:
        """What the steps from `step` on read, [K, B, ...], cut over the devices; each process makes its own part."""
        k, batch_size = self.experiment.steps_per_call, self.experiment.batch_size
        local = batch_size // jax.process_count()
        part = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
        rows = _stack([self.feed.rows(step + i, part) for i in range(k)])
        if self.pmapped:
            return pmap.split_rows(rows, self.mesh)
        placed = sharding.rows(self.mesh, leading=1)
        if jax.process_count() == 1:
            return jax.device_put(rows, placed)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(placed, x), rows)

    @functools.cached_property
    def compiled_step(self) -> Callable:
        """(state, resident, rows [K, B]) -> (state, metrics [K]), one dispatch."""
        if self.pmapped:
            k_steps = functools.partial(_k_steps, self.model.train_step, self.feed.assemble, lambda batch: batch)
            return pmap.compile_step(k_steps, self.train_key, self.mesh)
        placed = sharding.rows(self.mesh)

        def constrain(batch):
            return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, placed), batch)

        k_steps = functools.partial(_k_steps, self.model.train_step, self.feed.assemble, constrain, rng=self.train_key)
        return jax.jit(k_steps, donate_argnums=0, out_shardings=(self.shardings, None))

    def flops_per_step(self) -> float:
        """Matrix products and convolutions of one update, over all devices."""
        batch = jax.eval_shape(lambda: self.feed.assemble(self.feed.resident, self.feed.rows(0)))
        model, _ = _model(self.experiment, axis_name=None)
        return flops.count(model.train_step, self.shapes, batch, self.train_key)

    def batches(self, split: str) -> Iterator[dict]:
        """Every example of a split once, in order, as device batches cut over the data axis."""
        feed, resident, assemble = self._eval_feed(split)
        for i in range(feed.num_batches):
            self.poll()
            yield assemble(resident, jax.device_put(feed.rows(i), sharding.rows(self.mesh)))

    @functools.cache  # noqa: B019 - a program lives as long as its process
    def _eval_feed(self, split: str) -> tuple[Any, dict, Callable]:
        feed = self.dataset.eval_feed(split, self.experiment.eval_batch_size)
        resident = jax.device_put(feed.resident, sharding.replicated(self.mesh))
        return feed, resident, jax.jit(feed.assemble, out_shardings=sharding.rows(self.mesh))

    @functools.cached_property
    def context(self) -> Context:
        """What evaluators are lent."""
        tokenizer = self.dataset.tokenizer
        return Context(
            model=self.model,
            info=self.dataset.info,
            batches=self.batches,
            batch_size=self.experiment.eval_batch_size,
            decode_text=tokenizer.decode if tokenizer else None,
            encode_text=tokenizer.encode if tokenizer else None,
            rng=self.eval_key,
        )

    def evaluators(self) -> dict[str, Evaluator]:
        """The config's evaluators by name. Raises ConfigError where the model lacks an ability."""
        for name, cfg in self.experiment.evals.items():
            if cfg.split not in self.dataset.sizes:
                raise ConfigError(f"config.evals.{name}.split: expected one of {', '.join(self.dataset.sizes)}")
        return {name: evaluators.build(cfg, self.context) for name, cfg in self.experiment.evals.items()}

    def preprocessed(self, state: State, cache: epath.Path) -> "Program":
        """Where the model trains on a function of the data: a program on its values, computed once and cached."""
        if not isinstance(self.model, Preprocesses):
            return self
        digest = _digest(config.to_dict(self.experiment)["data"], self.model.preprocess_inputs(state))
        path = cache / f"inputs_{digest[:16]}.npz"
        splits = [split for split, size in self.dataset.sizes.items() if size]
        if not path.exists():
            arrays = {f"{split}/{k}": v for split in splits for k, v in self._computed_inputs(state, split).items()}
            cache.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - numpy's stub
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            extra = {split: {} for split in splits}
            for key in stored.files:
                split, name = key.split("/")
                extra[split][name] = stored[key]
        return Program(self.experiment, self.dataset.with_arrays(extra), self.poll)

    def _computed_inputs(self, state: State, split: str) -> dict[str, np.ndarray]:
        compute = jax.jit(self.model.preprocess)
        rows = []
        for batch in self.batches(split):
            inputs, valid = jax.device_get((compute(state, batch), batch["valid"]))
            rows.append({name: value[valid] for name, value in inputs.items()})
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _mesh(experiment: Experiment) -> jax.sharding.Mesh:
    backend = jax.default_backend()
    if experiment.platform not in ("any", backend):
        raise ConfigError(f"config.platform: expected {experiment.platform}, found only {backend}")
    mesh = sharding.make_mesh(experiment.mesh)
    size = mesh.shape["data"]
    for key in ("batch_size", "eval_batch_size"):
        if getattr(experiment, key) % size:
            raise ConfigError(f"config.{key}: expected a multiple of {size}, the data axis of the mesh")
    return mesh


def _model(experiment: Experiment, axis_name: str | None) -> tuple[Any, dict[str, Optimiser]]:
    txs = {name: optim.build(cfg, experiment.total_steps, axis_name) for name, cfg in experiment.optim.items()}
    return config.model_module(experiment.model_name).from_config(experiment.model, txs), txs


def _k_steps(train_step, assemble, constrain, state, resident, rows, rng):
    def body(state, row):
        return train_step(state, constrain(assemble(resident, row)), rng)

    if len(jax.tree.leaves(rows)[0]) == 1:
        state, metrics = body(state, jax.tree.map(lambda x: x[0], rows))
        return state, jax.tree.map(lambda x: x[None], metrics)
    return ops.scan(body, state, rows)


def _digest(section: dict, arrays: Any) -> str:
    """sha256 of a config section and of arrays."""
    digest = hashlib.sha256(repr(sorted(section.items())).encode())
    for leaf in jax.tree.leaves(jax.device_get(arrays)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
