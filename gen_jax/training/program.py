"""An experiment made ready to run: data, model, mesh, shardings and the compiled step.

`train`, `eval`, `sample`, `check` and `bench` all start from `Program(experiment)`.
"""

import functools
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from gen_jax import config, data, evaluators
from gen_jax.config import Experiment
from gen_jax.core import ops, optim
from gen_jax.core.gradients import Optimizer
from gen_jax.core.state import Mean, State, path_name
from gen_jax.data import Info
from gen_jax.data.datasets import has_split
from gen_jax.errors import ConfigError, first_line, kind_and_line
from gen_jax.evaluators.evaluator import Context, Evaluator
from gen_jax.models.base import Preprocesses, Translates, TranslatesImages
from gen_jax.parallel import pmap, sharding
from gen_jax.parallel.processes import everywhere, gather, is_primary
from gen_jax.runs.run_dir import write_atomic
from gen_jax.training import checks, flops


def _stack(rows: list[dict]) -> dict:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


class Program:
    """One experiment on the devices at hand. Building it starts the backend but compiles nothing.

    Args:
      experiment: a resolved config.
      dataset: instead of `experiment.data`'s, for a second stage whose inputs are computed.
      poll: called between the batches of an evaluation; may raise to end it early.
      tokenizer_file: the tokeniser that the run began with, instead of the one that `experiment.data` means.
      devices: instead of those that are here; a program for the devices of a topology can only be compiled.

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
        self.feed = self.dataset.train_feed(experiment.batch_size)
        self.pmapped = experiment.parallel == "pmap"
        self.model, self.optimizers = _model(experiment, pmap.AXIS if self.pmapped else None)
        self._init = functools.partial(self.model.init, self.init_key)
        _check_fit(experiment.model, self.model, self.dataset.info)
        try:
            self.shapes = jax.eval_shape(self._init, self.first_batch_shapes)
        except (OverflowError, MemoryError) as error:
            raise ConfigError(f"config.model: larger than any machine: {first_line(error)}") from error
        _check_networks(experiment, self.shapes, self.optimizers)
        _check_reset(experiment.init_from.reset, self.shapes)
        self.shardings = sharding.state_shardings(self.shapes, experiment.sharding, self.mesh)
        self.abstract = sharding.with_shardings(self.shapes, self.shardings)
        if self.pmapped:
            pmap.check(self.shapes, experiment.sharding, self.mesh)

    def set_keys(self, seed: int) -> None:
        """The root keys of a run."""
        self.init_key, self.train_key, self.eval_key = jax.random.split(jax.random.key(seed), 3)

    @functools.cached_property
    def resident(self) -> dict:
        """The training arrays that stay on the devices."""
        resident = sharding.place(self.feed.resident, sharding.replicated(self.mesh))
        return pmap.replicate(resident, self.mesh) if self.pmapped else resident

    def init(self) -> State:
        """The first state, born sharded."""

        def init(resident, rows):
            return self._init(self.feed.assemble(resident, rows))

        resident = self.feed.resident if self.pmapped else self.resident
        return jax.jit(init, out_shardings=self.shardings)(resident, self.feed.rows(0))

    def check(self) -> None:
        """Raises ConfigError where memory, an evaluator, the step or `best` does not fit; compiles nothing."""
        checks.check(self)

    @functools.cached_property
    def first_batch_shapes(self) -> dict:
        """Of a training batch; nothing of its size is made."""
        return checks.batch_shapes(self.feed, self.dataset.train_feed(1), self.experiment.batch_size)

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
        """`steps_per_call` updates from `step` on; `state` is donated. Metrics are `[K]`, still on the device."""
        return self.compiled_step(state, self.resident, self.rows(step))

    def rows(self, step: int) -> dict:
        """What the steps from `step` on read, [K, B, ...], cut over the devices; each process makes its own part."""
        rows = self.host_rows(step)
        if self.pmapped:
            return pmap.split_rows(rows, self.mesh)
        return sharding.place(rows, sharding.rows(self.mesh, leading=1))

    def host_rows(self, step: int) -> dict:
        """This process's part of `rows`, on the host."""
        part = sharding.local_rows(self.mesh, self.experiment.batch_size)
        return _stack([self.feed.rows(step + i, part) for i in range(self.experiment.steps_per_call)])

    @functools.cached_property
    def compiled_step(self) -> Callable:
        """(state, resident, rows [K, B]) -> (state, metrics [K]), one dispatch."""
        train_step, assemble = self.model.train_step, self.feed.assemble
        if self.pmapped:
            return pmap.compile_step(functools.partial(k_steps, train_step, assemble), self.train_key, self.mesh)

        def gathered_step(state, batch, rng):
            return train_step(sharding.gathered(state, self.shardings), batch, rng)

        def on_mesh(state, resident, rows):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # what `ops.constrain` reads
                return k_steps(gathered_step, assemble, state, resident, rows, self.train_key)

        return jax.jit(on_mesh, donate_argnums=0, out_shardings=(self.shardings, sharding.replicated(self.mesh)))

    def flops_per_step(self, recomputed: bool = False) -> float:
        """Matrix products and convolutions of one update, over all devices; `recomputed` as `flops.count`.

        Traced as for a TPU on every platform: loops are loops, and attention is no kernel that hides its work.
        """
        step = self.model_without_axis.train_step
        with ops.compiling_for("tpu"):
            return flops.count(step, self.shapes, self.first_batch_shapes, self.train_key, recomputed=recomputed)

    def batches(self, split: str) -> Iterator[dict]:
        """Every example of a split once, in order, as device batches cut over the devices."""
        feed, resident, assemble = self._eval_feed(split)
        placed, part = sharding.rows(self.mesh), sharding.local_rows(self.mesh, self.experiment.eval_batch_size)
        for i in range(feed.num_batches):
            self.poll()
            yield assemble(resident, sharding.place(feed.rows(i, part), placed))

    @functools.cache  # noqa: B019 - a program lives as long as its process
    def _eval_feed(self, split: str) -> tuple[Any, dict, Callable]:
        feed = self.dataset.eval_feed(split, self.experiment.eval_batch_size)
        resident = sharding.place(feed.resident, sharding.replicated(self.mesh))
        return feed, resident, jax.jit(feed.assemble, out_shardings=sharding.rows(self.mesh))

    @functools.cached_property
    def context(self) -> Context:
        """What evaluators are lent."""
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
        )

    @functools.cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """The config's evaluators by name. Raises ConfigError where the model lacks an ability or the data a split."""
        for name, cfg in self.experiment.evals.items():
            for split in cfg.splits:
                has_split(split, self.dataset.sizes, f"config.evals.{name}.split")
                self.dataset.eval_feed(split, self.experiment.eval_batch_size)  # refuses what does not fit
        return {name: evaluators.build(cfg, self.context) for name, cfg in self.experiment.evals.items()}

    def preprocessed(self, state: State, cache: epath.Path) -> "Program":
        """Where the model trains on a function of the data: a program on its values, computed once and cached."""
        if not isinstance(self.model, Preprocesses):
            return self
        digest = _digest(config.to_dict(self.experiment)["data"], self.model.preprocess_inputs(state))
        path = cache / f"inputs_{digest[:16]}.npz"
        splits = [split for split, size in self.dataset.sizes.items() if size]
        if everywhere(path.exists()):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
        else:
            arrays = {f"{split}/{k}": v for split in splits for k, v in self._computed_inputs(state, split).items()}
            if is_primary():
                file = io.BytesIO()
                np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - numpy's stub
                cache.mkdir(parents=True, exist_ok=True)
                write_atomic(path, file.getvalue())
        extra = {split: {} for split in splits}
        for key, array in arrays.items():
            split, name = key.split("/")
            extra[split][name] = array
        return Program(self.experiment, self.dataset.with_arrays(extra), self.poll)

    def _computed_inputs(self, state: State, split: str) -> dict[str, np.ndarray]:
        compute = jax.jit(self.model.preprocess)
        rows = []
        for batch in self.batches(split):
            inputs, valid = gather((compute(state, batch), batch["valid"]))
            rows.append({name: value[valid] for name, value in inputs.items()})
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _load(experiment: Experiment, tokenizer_file: str) -> Any:
    """The data set, in the tokens that the run began with. Raises ConfigError where its tokens are others by now."""
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


def _check_fit(model: Any, built: Any, info: Info) -> None:
    """Compares what a model's config, and the model built from it, say of its examples with what the data are."""
    if (info.kind == "unpaired") != isinstance(built, TranslatesImages):
        wanted = "two unpaired sets of images" if isinstance(built, TranslatesImages) else "one set of examples"
        raise ConfigError(f"config.data: expected {wanted}, as {type(built).__name__} reads, found {info.kind}")
    inner = getattr(model, "first_stage", model)
    size = info.shape[0] if info.kind == "vector" else 0
    for name, found in (("image", info.shape if info.kind in ("image", "unpaired") else ()), ("data_dim", size)):
        if name in type(inner).model_fields and getattr(inner, name) != found:
            raise ConfigError(
                f"config.model.{name}: expected {found or 'other data'}, as in the data, got {getattr(inner, name)}"
            )
    if "vocab" in type(model).model_fields and not info.vocab_size:
        raise ConfigError(f"config.data: expected tokens, as the model reads, found {info.kind}")
    if "vocab" in type(model).model_fields and info.vocab_size > model.vocab:
        raise ConfigError(f"config.model.vocab: expected at least {info.vocab_size}, as in the data, got {model.vocab}")
    if isinstance(built, Translates) and info.kind != "pairs":
        raise ConfigError(f"config.data: expected pairs of texts, as {type(built).__name__} reads, found {info.kind}")
    if "context" in type(model).model_fields and model.context < (length := info.shape[-1] - 1):
        raise ConfigError(f"config.model.context: expected at least {length}, as in the data, got {model.context}")
    end = getattr(built, "end", getattr(model, "end", info.end))
    if info.end is not None and end != info.end:
        raise ConfigError(f"config.model.end: expected {info.end}, as in the data, got {end}")
    if info.records and not hasattr(model, "end") and getattr(model, "start", info.end) != info.end:
        raise ConfigError(f"config.model.start: expected {info.end}, the token before each record, got {model.start}")
    classes = getattr(model, "num_classes", 0)
    if classes and classes != info.num_classes:
        raise ConfigError(f"config.model.num_classes: expected {info.num_classes}, as in the data, got {classes}")


def _check_networks(experiment: Experiment, shapes: State, optimizers: dict[str, Optimizer]) -> None:
    """Refuses what the shapes show to be wrong in `config.optim`."""
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


def _check_reset(rules: tuple[str, ...], shapes: State) -> None:
    nets = {name: {"params": net.params, "stats": net.stats} for name, net in shapes.nets.items()}
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(nets)]
    for rule in rules:
        if not any(re.fullmatch(rule, path) for path in paths):
            raise ConfigError(f"config.init_from.reset: {rule!r} matches no parameter; they are like {paths[0]}")


def _model(experiment: Experiment, axis_name: str | None) -> tuple[Any, dict[str, Optimizer]]:
    optimizers = {}
    for name, cfg in experiment.optim.items():
        per_step, fused = experiment.updates_per_step(name), getattr(experiment.model, "fused", {})
        updates = experiment.total_steps * per_step
        optimizers[name] = optim.build(cfg, updates, axis_name, experiment.seed, per_step, fused, name)
    return config.model_module(experiment.model_name).from_config(experiment.model, optimizers), optimizers


def k_steps(train_step: Any, assemble: Any, state: State, resident: dict, rows: dict, rng: jax.Array):
    """A training step of each of the rows [K, B, ...]; metrics are `[K]`."""

    def body(state, row):
        batch = jax.tree.map(lambda x: ops.constrain(x, ops.ROWS), assemble(resident, row))
        return train_step(state, batch, rng)

    return ops.scan(body, state, rows)


def _digest(section: dict, arrays: Any) -> str:
    """sha256 of a config section and of arrays."""
    digest = hashlib.sha256(repr(sorted(section.items())).encode())
    for leaf in jax.tree.leaves(gather(arrays)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
