"""A trained run, read back: what `gen_jax.load`, `eval`, `sample` and `export` start from. It needs no config file."""

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gen_jax import config
from gen_jax.config import Experiment
from gen_jax.core.sampling import MOST_SAMPLES, Sampling
from gen_jax.core.state import State
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import EvalConfig, Report
from gen_jax.models.base import Samples, sampler
from gen_jax.parallel.sharding import MeshConfig
from gen_jax.runs import metric_tags, restore
from gen_jax.runs.progress import Progress
from gen_jax.runs.run_dir import RunDir
from gen_jax.settings import LARGEST_SEED, nearest, require_between
from gen_jax.training import same_data
from gen_jax.training.preprocess import preprocessed
from gen_jax.training.program import Program
from gen_jax.training.report import tagged
from gen_jax.training.seed_report import folders, only


class TrainedRun:
    """A run and one of its checkpoints.

    Attributes: `run_dir`, its files; `config`, resolved, with a mesh for the devices at hand; `program`, its data and
    what is compiled; `model`; `step` and `state`, of the checkpoint, which is read when one of them is first used.

    Args:
      workdir: the run directory.
      step: "latest", "best" or a number.
      accept_data: also where the data have changed since the run began.
      poll: called between the batches of an evaluation; may raise to end it early.
      overrides: flags `--config.evals.name.key=value`: evaluators beside those of the run, or other fields of these.

    Raises:
      ConfigError: no run is here, or several: `runs` gives each. Or a flag is wrong.
      DataError: the data are missing, or changed.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        step: str | int = "latest",
        *,
        accept_data: bool = False,
        poll: Callable[[], None] = lambda: None,
        overrides: Sequence[str] = (),
    ):
        self.run_dir = RunDir(workdir)
        self.config = experiment_of(self.run_dir, overrides)
        self.program = Program(self.config, poll=poll, tokenizer_file=self.run_dir.saved_tokenizer())
        same_data.check(self.run_dir, self.program.dataset, accept_data)
        self.model, self._step = self.program.model, step

    def __repr__(self) -> str:
        return f"TrainedRun({os.fspath(self.run_dir.path)!r}, step={self._step!r}, model={self.config.model_name!r})"

    def go_to(self, step: str | int) -> None:
        """Takes another checkpoint; what is compiled stays."""
        self._step = step
        vars(self).pop("_restored", None)

    @functools.cached_property
    def _restored(self) -> tuple[int, State]:
        return restore.load(self.run_dir.checkpoints, self.program.abstract, self._step)[:2]

    @property
    def step(self) -> int:
        """Of the checkpoint. Raises CheckpointError if there is none, or it is damaged."""
        return self._restored[0]

    @property
    def state(self) -> State:
        """Of the checkpoint. Raises CheckpointError as `step` does."""
        return self._restored[1]

    @property
    def tokenizer(self) -> Any:
        """`encode(text)` gives token ids [T], `decode(ids)` a text; None where the data are no text."""
        return self.program.dataset.tokenizer

    def batches(self, split: str) -> Iterator[dict[str, jax.Array]]:
        """Every example of a split once, in order: what the model's `encode`, `logits` and so on take.

        A batch holds the data's arrays [B, ...], `index` [B] and `valid` [B], which is False on the rows that fill up
        the last batch.

        Raises:
          ConfigError: there is no such split.
        """
        return self._preprocessed.batches(split)

    def curve(self, tag: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps int64 [N] and values float64 [N] of a metric over training; a value that was not finite is NaN.

        Args:
          tag: such as `train/loss` or `test/elbo`, whole or the part of it before `@`.

        Raises:
          ConfigError: the run has no such metric, or several.
        """
        rows = self.run_dir.rows()
        known = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
        found = metric_tags.find(tag, known)
        if len(found) != 1:
            raise ConfigError(f"curve: expected one metric of the run, got {tag!r}{nearest(tag, found or known)}")
        points = [(row["step"], row[found[0]]) for row in rows if found[0] in row]
        steps, values = zip(*points, strict=True)
        return np.array(steps, np.int64), np.array(values, np.float64)

    def reports(self, *names: str) -> Iterator[tuple[str, EvalConfig, Report]]:
        """Runs evaluators of the config, all or those with these names: (name, its section, what it found).

        Raises:
          ConfigError: there is no such evaluator, or none at all.
        """
        evals = self.config.evals
        for name in names:
            if name not in evals:
                raise ConfigError(f"config.evals.{name}: unknown evaluator{nearest(name, evals)}")
        if not evals:
            raise ConfigError("config.evals: expected at least one evaluator; this run has none")
        for name in names or evals:
            yield name, evals[name], self._preprocessed.evaluators[name](self.state)

    @functools.cached_property
    def _preprocessed(self) -> Program:
        return preprocessed(self.program, self.state, self.run_dir.path / "cache")

    def evaluate(self, *names: str) -> dict[str, float]:
        """What evaluators of the config find, by tag such as `test/elbo`; writes nothing. Raises as `reports`."""
        found: dict[str, float] = {}
        with Progress("evaluate", len(names or self.config.evals), unit="evaluator") as progress:
            for done, (name, cfg, report) in enumerate(self.reports(*names), 1):
                found |= tagged(cfg, report)
                progress.update(done, name)
        return found

    def sampler(self, n: int, **options: Any) -> Callable[[State, jax.Array], Any]:
        """(state, rng) -> n samples, with options of the model such as `temperature`.

        Raises:
          ConfigError: the model does not sample, does not read an option, or n is none that it can be.
        """
        require_between("sample.n", n, 1, MOST_SAMPLES)
        return functools.partial(self.model.sample, n=n, options=self._options(options))

    def _options(self, given: Mapping[str, Any]) -> Sampling:
        if not isinstance(self.model, Samples):
            raise ConfigError(f"sample: expected a model that samples; {self.config.model_name} does not")
        return self.program.prepared(self.program.sampling(given, "sample"), "sample")

    def sample(self, n: int, seed: int = 0, **options: Any) -> Any:
        """n samples on the host, as the model's `sample` gives them: uint8 images [n, H, W, C], tokens and lengths, ...

        Args:
          options: of the model, such as `temperature` or `prompts`.

        Raises:
          ConfigError: as `sampler`.
        """
        require_between("sample.n", n, 1, MOST_SAMPLES)
        require_between("sample.seed", seed, 0, LARGEST_SEED)
        draw = sampler(self.model, int(n), self._options(options))
        return jax.device_get(draw(self.state, jax.random.key(seed)))


def load(workdir: str | os.PathLike, step: str | int = "latest", *, accept_data: bool = False) -> TrainedRun:
    """A trained run: `load("runs/vae").sample(16)`. Arguments and errors as of `TrainedRun`."""
    return TrainedRun(workdir, step, accept_data=accept_data)


def runs(workdir: str | os.PathLike) -> list[RunDir]:
    """The run in a folder; of a run with `num_seeds`, that of each seed.

    Raises:
      ConfigError: no run is here.
    """
    run_dir = RunDir(workdir)
    each = folders(run_dir)
    return list(each.values()) if len(each) > 1 else [run_dir]


def run_of_seed(workdir: str | os.PathLike, seed: int | None) -> RunDir:
    """The run in a folder; of a run with `num_seeds`, that of one seed.

    Raises:
      ConfigError: no run is here, or it needs another seed. The message lists them.
    """
    run_dir = RunDir(workdir)
    each = folders(run_dir)
    if len(each) == 1 and seed is None:
        return run_dir
    if len(each) == 1:
        raise ConfigError(f"--seed: expected none, {run_dir.path} holds one run")
    if seed not in each:
        raise ConfigError(
            f"--seed: expected one of {', '.join(map(str, each))}, the seeds of {run_dir.path}, got {seed}"
        )
    return each[seed]


def experiment_of(run: RunDir, overrides: Sequence[str] = ()) -> Experiment:
    """The run's config, with a mesh for the devices at hand instead of those it was trained on.

    Args:
      overrides: as `TrainedRun`.

    Raises:
      ConfigError: no run is here, or several; a flag is wrong; or a process would have no part of a batch.
    """
    for override in overrides:
        if not override.startswith("--config.evals."):
            flag = override.partition("=")[0]
            raise ConfigError(f"{flag}: expected a key of config.evals; all other keys are those of the run")
    experiment = config.resolve(only(run).config())
    if overrides:
        experiment = config.replaced(experiment, dict(config.flagged(overrides)))
    devices = math.gcd(len(jax.devices()), experiment.batch_size, experiment.eval_batch_size)
    if jax.process_count() > 1 and devices < len(jax.devices()):
        sizes = f"{experiment.batch_size} and {experiment.eval_batch_size}"
        raise ConfigError(
            f"--num_processes: expected devices that divide the batches of {sizes}, got {len(jax.devices())}"
        )
    mesh = MeshConfig(data=1, fsdp=devices)
    return experiment.model_copy(update={"mesh": mesh, "parallel": "jit", "platform": "any"})
