"""A config: read from a file, completed by the defaults of what it names, overridden by flags, checked.

`load("experiments/vae/mnist.py:smoke", ["--config.optim.net.lr=3e-4"])` gives an `Experiment`, whose every field
has a value; `resolve` does the same for a ConfigDict in hand. Nothing here touches a device.
"""

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import pydantic
from pydantic import Field

import gen_jax.models
from gen_jax import config_file, data, evaluators
from gen_jax.core.optim import Config as OptimConfig
from gen_jax.core.optim import schedule
from gen_jax.errors import ConfigError
from gen_jax.evaluators.evaluator import EvalConfig
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
    named_module,
    nearest,
    one_line,
    shown,
    validate,
)


class InitFrom(Settings):
    """Parameters to start from: another run's checkpoint, or GPT-2's weights.

    workdir: "" = none. step: "latest", "best" or a number. nets: {network here: network there}; empty = same names.
    allow: regexes on `network/params/path` here: leaves that may be missing there, and keep their initial values.
    reset: leaves that keep their initial values whatever the other run has: a new head.
    safetensors: a file of GPT-2's weights by Hugging Face's names, for the model `transformer`; "" = none.
    """

    workdir: UserPath = ""
    step: str = "latest"
    nets: dict[str, str] = Field(default_factory=dict)
    allow: tuple[Regex, ...] = ()
    reset: tuple[Regex, ...] = ()
    safetensors: UserPath = ""

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> "InitFrom":
        if self.workdir and self.safetensors:
            raise ValueError("safetensors: expected nothing where workdir is given")
        return self


class Best(Settings):
    """metric: a tag such as `val/elbo`, or what stands before its `@`; "" = no best checkpoint, no early stop.
    patience: evaluations without a better one before training stops; 0 = never."""

    metric: str = ""
    mode: Literal["min", "max"] = "min"
    patience: Count = 0

    @pydantic.model_validator(mode="after")
    def _of_a_metric(self) -> "Best":
        if self.patience and not self.metric:
            raise ValueError(f"patience: expected 0 where best.metric is empty, got {self.patience}")
        return self


class Profile(Settings):
    """A profiler trace of steps [start, start + steps) into TensorBoard; steps = 0: none."""

    start: Period = 0
    steps: Period = 0


class Experiment(Settings):
    """A whole config. Periods are in steps; 0 = never (the last step is always logged, evaluated and saved).

    hang_limit_s: seconds without progress after which a run ends with exit code 76 and all stacks on stderr; 0 = never.
      Longer than compiling, than the steps between two logs (the device works on when they are dispatched), than a
      batch and the final computation of an evaluator, and than a restored, or a saved, hashed and uploaded checkpoint.
    memory_check: what cannot fit the memory of the devices, or of the host, is refused before anything is compiled. The
      estimate is a lower bound: state, gradients, resident data, a batch, the largest result of a matrix product.
    num_seeds: that many runs, with the seeds `seed`, `seed` + 1, ..., as one program on one device.
    """

    seed: Seed = 0
    num_seeds: Positive = 1
    total_steps: Steps
    batch_size: Positive
    eval_batch_size: Positive = 250
    steps_per_call: Steps = 1
    parallel: Literal["jit", "pmap"] = "jit"
    platform: Literal["any", "cpu", "gpu", "tpu"] = "any"
    log_every: Period = 100
    eval_every: Period = 0
    save_every: Period = 0
    histograms: Switch = False
    keep: Positive = 2
    hash_limit_mb: NonNegative = 10_000.0
    hang_limit_s: NonNegative = 0.0
    memory_check: bool = True
    data: pydantic.SerializeAsAny[data.Source]
    model_name: str
    model: pydantic.SerializeAsAny[Settings]
    optim: dict[str, OptimConfig]
    mesh: MeshConfig = MeshConfig()
    sharding: tuple[tuple[Regex, str | tuple[str | None, ...]], ...] = ((".*", "replicate"),)
    evals: dict[str, pydantic.SerializeAsAny[EvalConfig]] = Field(default_factory=dict)
    best: Best = Best()
    init_from: InitFrom = InitFrom()
    profile: Profile = Profile()

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
        """Of one network in a training step; a schedule counts its own network's updates."""
        return getattr(self.model, "updates_per_step", {}).get(name, 1)

    def rate(self, name: str, step: int) -> float | None:
        """The learning rate that one network's last update of a step had; None where it is always the same."""
        cfg, updates = self.optim[name], self.updates_per_step(name)
        if cfg.schedule == "constant" and not cfg.warmup:
            return None
        return np.asarray(schedule(cfg, self.total_steps * updates, updates)(step * updates - 1)).item()


def model_module(name: Any) -> Any:
    """`gen_jax.models.<name>`."""
    return named_module(gen_jax.models, name, "config.model_name")


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
    raw["model"] = validate(model_module(raw["model_name"]).Config, raw["model"], "config.model")
    if not isinstance(evals := raw.get("evals", {}), dict):
        raise ConfigError(f"config.evals: expected a section, got {shown(evals)}")
    raw["evals"] = {name: evaluators.parse(cfg, f"config.evals.{name}") for name, cfg in evals.items()}
    return validate(Experiment, raw, "config")


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The resolved config as JSON types."""
    return experiment.model_dump(mode="json")


def to_markdown(experiment: Experiment) -> str:
    """The resolved config as a code block for TensorBoard."""
    return f"```\n{json.dumps(to_dict(experiment), indent=2)}\n```"


def load(spec: str, overrides: list[str]) -> Experiment:
    """Reads `FILE.py[:arg]`, applies `--config.key=value` flags in their order, checks the result.

    A value is read as its field's type says. `--config.section={...}` changes the keys that it names.

    Raises:
      ConfigError: as `resolve`; also for a flag that names no key of the config.
    """
    flags = [override.removeprefix("--config.").partition("=") for override in overrides]
    values = [(key, value if isinstance(value := literal(text), dict) else Flag(text)) for key, _, text in flags]
    return resolve(_changed(config_file.read(spec), values))


def replaced(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """A config with other values at its keys, as `{"model.latent": 8}`; what the same flags would make of it.

    Raises:
      ConfigError: as `load`.
    """
    return resolve(_changed(experiment.model_dump(), values.items()))


def _changed(config: dict[str, Any], values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of a config with values at keys such as `model.latent`; a dict is merged into the section there."""
    changed = copy.deepcopy(config)
    for key, value in values:
        section, names = changed, key.split(".")
        for i, name in enumerate(names[:-1]):
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ConfigError(
                    f"config.{one_line(key)}: unknown key; config.{'.'.join(names[: i + 1])} is no section"
                )
        _merge(section, {names[-1]: value}, one_line(".".join(["config", *names[:-1]])))
    for key in ("optim", "evals"):  # a typo in the name of a network or an evaluator would be a new one
        known, found = config.get(key) or {}, changed.get(key) or {}
        for name in found.keys() - known.keys():
            if not (isinstance(found[name], dict) and "type" in found[name]):
                raise ConfigError(f"config.{key}.{one_line(name)}: unknown key{nearest(name, known)}")
    return changed


def _merge(section: dict[str, Any], values: dict[str, Any], key: str) -> None:
    for name, value in values.items():
        inner = section.get(name)
        if isinstance(value, dict) and isinstance(inner, dict):
            _merge(inner, value, f"{key}.{name}")
        elif isinstance(inner, dict):
            value = literal(value) if isinstance(value, Flag) else value
            raise ConfigError(f"{key}.{name}: expected a section, such as {{'key': value}}, got {shown(value)}")
        else:
            section[name] = value
