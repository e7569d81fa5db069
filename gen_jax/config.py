"""Reads a config from a file, adds the defaults of the modules that it names, applies flags, and checks the result.

`load("experiments/vae/mnist.py:smoke", ["--config.optim.net.lr=3e-4"])` gives an `Experiment`, in which every field
has a value. `resolve` does the same for a ConfigDict. Nothing here touches a device.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pydantic
from pydantic import Field

import gen_jax.models
from gen_jax import config_file, data, evaluators
from gen_jax.core import sampling as sampling_options
from gen_jax.core.optim import Config as OptimConfig
from gen_jax.core.optim import schedule
from gen_jax.core.sampling import Sampling
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import EvalConfig
from gen_jax.io.modules import named_module
from gen_jax.models.base import ModelConfig
from gen_jax.parallel.sharding import MeshConfig
from gen_jax.settings import (
    LARGEST_SEED,
    Count,
    Flag,
    NonNegative,
    Period,
    Positive,
    Regex,
    Seed,
    Settings,
    Steps,
    Switch,
    UserPath,
    literal,
    shown,
    validate,
)


class InitFrom(Settings):
    """Parameters to start from: another run's checkpoint, or GPT-2's weights."""

    workdir: UserPath = ""
    """The other run; "" = none."""
    step: str = "latest"
    """The checkpoint of the other run: "latest", "best" or a step."""
    nets: dict[str, str] = Field(default_factory=dict)
    """{network here: network there}; empty = the same names."""
    allow: tuple[Regex, ...] = ()
    """Regexes on `network/params/path` in this model: leaves that the other run may lack. They stay as initialized."""
    reset: tuple[Regex, ...] = ()
    """Regexes like `allow`: leaves that keep their initial values whatever the other run has, such as a new head."""
    safetensors: UserPath = ""
    """A file of GPT-2's weights with Hugging Face's names, for the model `transformer`; "" = none."""

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> "InitFrom":
        if self.workdir and self.safetensors:
            raise ValueError("safetensors: expected nothing where workdir is given")
        return self


class Best(Settings):
    """Which checkpoint is the best, and when training stops early."""

    metric: str = ""
    """A tag such as `val/elbo`, or the part of it before `@`; "" = no best checkpoint, no early stop."""
    mode: Literal["min", "max"] = "min"
    """Whether lower or higher values are better."""
    patience: Count = 0
    """Evaluations without a better value before training stops; 0 = never."""

    @pydantic.model_validator(mode="after")
    def _of_a_metric(self) -> "Best":
        if self.patience and not self.metric:
            raise ValueError(f"patience: expected 0 where best.metric is empty, got {self.patience}")
        return self


class Profile(Settings):
    """A profiler trace of steps [start, start + steps) into TensorBoard."""

    start: Period = 0
    """The first step of the trace."""
    steps: Period = 0
    """Number of traced steps; 0 = no trace."""


class Log(Settings):
    """Where a run is logged."""

    writers: tuple[Literal["jsonl", "tensorboard", "csv", "wandb"], ...] = ("jsonl", "tensorboard")
    """`jsonl` is metrics.jsonl, which every run needs to resume. `wandb` needs that package."""

    @pydantic.field_validator("writers")
    @classmethod
    def _once_each(cls, writers: tuple[str, ...]) -> tuple[str, ...]:
        if "jsonl" not in writers or len(set(writers)) < len(writers):
            raise ValueError("expected jsonl and each other writer once")
        return writers


class Experiment(Settings):
    """A whole config. Periods are in steps; 0 = never (the last step is always logged, evaluated and saved)."""

    seed: Seed = 0
    """Seed of the parameters, the noise and the order of the data."""
    num_seeds: Positive = 1
    """Number of runs, with the seeds `seed`, `seed` + 1, ..., trained as one program on one device."""
    total_steps: Steps
    """Number of training steps (calls of `train_step`)."""
    batch_size: Positive
    """Examples of a training step, over all devices."""
    eval_batch_size: Positive = 250
    """Examples of an evaluation batch, over all devices."""
    steps_per_call: Steps = 1
    """Training steps in one dispatch; all periods are multiples of it."""
    parallel: Literal["jit", "pmap"] = "jit"
    """`jit` shards one global program (GSPMD); `pmap` replicates the parameters."""
    platform: Literal["any", "cpu", "gpu", "tpu"] = "any"
    """The platform that the run needs; `any` accepts every platform."""
    log_every: Period = 100
    """Steps between two rows of training metrics."""
    eval_every: Period = 0
    """Steps between two evaluations."""
    save_every: Period = 0
    """Steps between two checkpoints."""
    histograms: Switch = False
    """Whether to log histograms of the parameters to TensorBoard."""
    keep: Positive = 2
    """How many of the newest checkpoints to keep, besides the best."""
    hash_limit_mb: NonNegative = 10_000.0
    """Checkpoints above this size (10^6 bytes) are verified by the sizes of their files alone."""
    hang_limit_s: NonNegative = 0.0
    """Seconds without progress after which a run ends with exit code 76 and all stacks on stderr; 0 = never.

    Longer than compiling, than the steps between two logs, than a batch and the final computation of an evaluator, and
    than a checkpoint that is restored, or saved, hashed and uploaded.
    """
    memory_check: bool = True
    """Refuses a config that cannot fit the memory of the devices or of the host, before compiling.

    The estimate is a lower bound: state, gradients, resident data, a batch, the largest result of a matrix product.
    """
    data: pydantic.SerializeAsAny[data.Source]
    """The data set. `source` names the file in `data/sources` that declares the other fields."""
    model_name: str
    """The model: a file in `models`, a dotted path, or a file of your own."""
    model: pydantic.SerializeAsAny[ModelConfig]
    """The fields of the model's `Config`."""
    sampling: pydantic.SerializeAsAny[Sampling] = Sampling()
    """Default options for `sample` and for the evaluators: fields of the model's `Sampling`."""
    optim: dict[str, OptimConfig]
    """{network: its optimizer}."""
    mesh: MeshConfig = MeshConfig()
    """The layout of the devices."""
    sharding: tuple[tuple[Regex, str | tuple[str | None, ...]], ...] = ((".*", "replicate"),)
    """(regex on the path of a parameter, partition spec | `fsdp` | `replicate`). The first match decides."""
    evals: dict[str, pydantic.SerializeAsAny[EvalConfig]] = Field(default_factory=dict)
    """{name: evaluator}. `type` names the file in `evaluators` that declares the other fields."""
    best: Best = Best()
    """The best checkpoint and early stopping."""
    init_from: InitFrom = InitFrom()
    """Parameters to start from."""
    profile: Profile = Profile()
    """A profiler trace."""
    log: Log = Log()
    """TensorBoard and other loggers."""

    @pydantic.model_validator(mode="after")
    def _periods(self) -> "Experiment":
        for name in ("total_steps", "log_every", "eval_every", "save_every"):
            if getattr(self, name) % self.steps_per_call:
                raise ValueError(f"{name}: expected a multiple of steps_per_call = {self.steps_per_call}")
        for name, cfg in self.optim.items():
            if self.batch_size % cfg.micro_batches:
                raise ValueError(f"optim.{name}.micro_batches: expected a divisor of batch_size = {self.batch_size}")
            if cfg.warmup > (steps := cfg.schedule_steps or self.total_steps):
                raise ValueError(f"optim.{name}.warmup: expected at most {steps}, the steps, got {cfg.warmup}")
        return self

    @pydantic.model_validator(mode="after")
    def _seeds(self) -> "Experiment":
        if self.num_seeds == 1:
            return self
        if self.parallel == "pmap":
            raise ValueError("num_seeds: expected 1 where parallel is pmap")
        for name, cfg in self.optim.items():
            if cfg.lora.rank:
                raise ValueError(f"num_seeds: expected 1 where optim.{name}.lora has a rank")
        if self.seed + self.num_seeds - 1 > LARGEST_SEED:
            raise ValueError(
                f"num_seeds: expected at most {LARGEST_SEED - self.seed + 1}, the seeds from {self.seed} on"
            )
        return self

    def updates_per_step(self, name: str) -> int:
        """How often a network is updated in a training step. Its schedule counts these updates."""
        return getattr(self.model, "updates_per_step", {}).get(name, 1)

    def rate(self, name: str, step: int) -> float | None:
        """The learning rate of one network's last update of a step. None if the rate is constant."""
        cfg, updates = self.optim[name], self.updates_per_step(name)
        if cfg.schedule == "constant" and not cfg.warmup:
            return None
        return np.asarray(schedule(cfg, self.total_steps * updates, updates)(step * updates - 1)).item()


def model_module(name: Any, key: str = "config.model_name") -> Any:
    """`gen_jax.models.<name>`, or a module of the user's. Raises ConfigError, which names `key`."""
    module = named_module(gen_jax.models, name, key, ModelConfig, "from_config")
    found = getattr(module, "Sampling", Sampling)  # a model that cannot sample has none
    if not (isinstance(found, type) and issubclass(found, Sampling)):
        raise ConfigError(f"{key}: {name}: expected a class Sampling(sampling.Sampling), found {shown(found)}")
    return module


def resolve(config: Any) -> Experiment:
    """Checks a config and fills in every default. Takes a ConfigDict, a dict or an Experiment.

    Raises:
      ConfigError: one line: the key, what was expected, the nearest valid name.
    """
    if isinstance(config, Experiment):
        return config
    raw = config_file.plain(config)
    if not isinstance(raw, dict):
        raise ConfigError(f"config: expected a section, got {shown(raw)}")
    for key in ("data", "model_name", "model", "optim"):
        if key not in raw:
            raise ConfigError(f"config.{key}: expected a value, found none")
    raw["data"] = data.parse(raw["data"])
    module = model_module(raw["model_name"])
    raw["model"] = validate(module.Config, raw["model"], "config.model")
    raw["sampling"] = sampling_options.parse(
        getattr(module, "Sampling", Sampling), raw["model"], raw.get("sampling", {}), "config.sampling"
    )
    if not isinstance(evals := raw.get("evals", {}), dict):
        raise ConfigError(f"config.evals: expected a section, got {shown(evals)}")
    raw["evals"] = {name: _evaluator(cfg, raw["sampling"], raw["model"], name) for name, cfg in evals.items()}
    return validate(Experiment, raw, "config")


def _evaluator(section: Any, sampling: Sampling, model: Settings, name: str) -> EvalConfig:
    """A section of `config.evals`. Its `sampling` holds the checked differences from the config's."""
    if isinstance(section, dict) and "sampling" in section:
        options = sampling_options.updated(sampling, model, section["sampling"], f"config.evals.{name}.sampling")
        values = options.model_dump(mode="json")
        section = section | {"sampling": {field: values[field] for field in section["sampling"]}}
    return evaluators.parse(section, f"config.evals.{name}")


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The resolved config as JSON types."""
    return experiment.model_dump(mode="json")


def to_markdown(experiment: Experiment) -> str:
    """The resolved config as a code block for TensorBoard."""
    return f"```\n{json.dumps(to_dict(experiment), indent=2)}\n```"


def load(spec: str, overrides: Sequence[str] = ()) -> Experiment:
    """Reads `FILE.py[:arg]`, applies `--config.key=value` flags in their order, checks the result.

    A value is read as its field's type says. `--config.section={...}` changes the keys that it names.

    Raises:
      ConfigError: as `resolve`; also for a flag that names no key of the config.
    """
    return resolve(config_file.changed(config_file.read(spec), flagged(overrides)))


def flagged(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """The keys and values of flags."""
    flags = [override.removeprefix("--config.").partition("=") for override in overrides]
    return [(key, value if isinstance(value := literal(text), dict) else Flag(text)) for key, _, text in flags]


def replaced(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """A config with other values at some keys, such as `{"model.latent": 8}`; the same as by flags.

    A dict changes the keys that it names.

    Raises:
      ConfigError: as `load`.
    """
    return resolve(config_file.changed(experiment.model_dump(), values.items()))
