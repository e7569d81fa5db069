"""A config: read from a file, completed by the defaults of what it names, overridden by flags, checked.

`load("experiments/vae/mnist.py:smoke", ["--config.optim.net.lr=3e-4"])` gives an `Experiment`, whose every field
has a value; `resolve` does the same for a ConfigDict in hand. Nothing here touches a device.
"""

import json
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import absl.flags
import ml_collections
import pydantic
from ml_collections import config_flags
from pydantic import Field

import gen_jax.models
from gen_jax import data, evaluators
from gen_jax.errors import ConfigError
from gen_jax.evaluators.base import EvalConfig
from gen_jax.optim import Config as OptimConfig
from gen_jax.settings import (
    LARGEST_SEED,
    Count,
    NonNegative,
    Positive,
    Regex,
    Seed,
    Settings,
    named_module,
    nearest,
    validate,
)
from gen_jax.sharding import MeshConfig


class InitFrom(Settings):
    """Parameters to start from: another run's checkpoint, or GPT-2's weights.

    workdir: "" = none. step: "latest", "best" or a number. nets: {network here: network there}; empty = same names.
    allow: regexes on `network/params/path` here: leaves that may be missing there, and keep their initial values.
    reset: leaves that keep their initial values whatever the other run has: a new head.
    safetensors: a file of GPT-2's weights by Hugging Face's names, for the model `transformer`; "" = none.
    """

    workdir: str = ""
    step: str = "latest"
    nets: dict[str, str] = Field(default_factory=dict)
    allow: tuple[Regex, ...] = ()
    reset: tuple[Regex, ...] = ()
    safetensors: str = ""

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


class Profile(Settings):
    """A profiler trace of steps [start, start + steps) into TensorBoard; steps = 0: none."""

    start: Count = 0
    steps: Count = 0


class Experiment(Settings):
    """A whole config. Periods are in steps; 0 = never (the last step is always logged, evaluated and saved).

    hang_limit_s: seconds without progress after which a run ends with exit code 76 and all stacks on stderr; 0 = never.
      Longer than compiling, than the steps between two logs (the device works on when they are dispatched), than a
      batch and the final computation of an evaluator, and than a restored, or a saved, hashed and uploaded checkpoint.
    num_seeds: so many runs, with the seeds `seed`, `seed` + 1, ..., as one program on one device.
    """

    seed: Seed = 0
    num_seeds: Positive = 1
    total_steps: Positive
    batch_size: Positive
    eval_batch_size: Positive = 250
    steps_per_call: Positive = 1
    parallel: Literal["jit", "pmap"] = "jit"
    platform: Literal["any", "cpu", "gpu", "tpu"] = "any"
    log_every: Count = 100
    eval_every: Count = 0
    save_every: Count = 0
    histograms: bool = False
    keep: Positive = 2
    hash_limit_mb: NonNegative = 10_000.0
    hang_limit_s: NonNegative = 0.0
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


def model_module(name: str) -> Any:
    """`gen_jax.models.<name>`."""
    return named_module(gen_jax.models, name, "config.model_name")


def resolve(config: Any) -> Experiment:
    """Checks a config and fills in every default. Takes a ConfigDict, a dict or an Experiment.

    Raises:
      ConfigError: one line: the key, what was expected, the nearest valid name.
    """
    if isinstance(config, Experiment):
        return config
    raw = json.loads(config.to_json_best_effort()) if isinstance(config, ml_collections.ConfigDict) else dict(config)
    for key in ("data", "model_name", "model", "optim"):
        if key not in raw:
            raise ConfigError(f"config.{key}: expected a value, found none")
    raw["data"] = data.parse(raw["data"])
    raw["model"] = validate(model_module(raw["model_name"]).Config, raw["model"], "config.model")
    raw["evals"] = {
        name: evaluators.parse(cfg, f"config.evals.{name}") for name, cfg in (raw.get("evals") or {}).items()
    }
    return validate(Experiment, raw, "config")


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The resolved config as JSON types."""
    return experiment.model_dump(mode="json")


def to_markdown(experiment: Experiment) -> str:
    """The resolved config as a code block for TensorBoard."""
    return f"```\n{json.dumps(to_dict(experiment), indent=2)}\n```"


def _run_file(spec: str) -> tuple[dict[str, Any], str]:
    """The names that the file of `FILE.py[:arg]` defines, and the argument."""
    path, _, arg = spec.partition(":")
    file = Path(path)
    if not file.is_file():
        known = [str(p) for p in Path("experiments").glob("*/*.py")]
        raise ConfigError(f"--config: no file {path}{nearest(path, known) if known else ''}")
    try:
        return runpy.run_path(str(file)), arg
    except Exception as error:
        raise ConfigError(f"--config: {spec}: {type(error).__name__}: {error}") from error


def _from_file(spec: str) -> ml_collections.ConfigDict:
    names, arg = _run_file(spec)
    try:
        config = names["get_config"](arg)
    except Exception as error:
        raise ConfigError(f"--config: {spec}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"--config: {spec}: expected get_config to return a ConfigDict, got {config!r}")
    return config


def sweep_of(spec: str) -> Callable[[Any], None]:
    """The function `sweep(s)` that stands beside `get_config`; gen_jax.sweeps.space says what it may call.

    Raises:
      ConfigError: there is none.
    """
    names, _ = _run_file(spec)
    if not callable(names.get("sweep")):
        raise ConfigError(f"--config: {spec}: expected a function sweep(s) beside get_config, found none")
    return names["sweep"]


def _section(config: Any, key: str) -> Any:
    """The section of a config that `config.key.key` lies in.

    Raises:
      ConfigError: the key is unknown.
    """
    section: Any = {"config": config}
    for i, name in enumerate(names := key.split(".")):
        known = list(section) if isinstance(section, dict | ml_collections.ConfigDict) else []
        if name not in known:
            raise ConfigError(f"--{key}: unknown key{nearest(name, known)}")
        if i + 1 < len(names):
            section = section[name]
    return section


def load(spec: str, overrides: list[str]) -> Experiment:
    """Reads `FILE.py[:arg]`, applies `--config.key=value` flags, checks the result.

    Raises:
      ConfigError: as `resolve`; also for a flag that names no key of the config.
    """
    config = ml_collections.ConfigDict(resolve(_from_file(spec)).model_dump(), convert_dict=True)
    for override in overrides:
        _section(config, override.removeprefix("--").partition("=")[0])
    argv = ["gen-jax", *overrides]
    flags = absl.flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=flags, sys_argv=argv)
        flags(argv)
    except (absl.flags.Error, ValueError, TypeError) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    return resolve(config)


def replaced(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """A config with other values at its keys, as `{"model.latent": 8}`; what the same flags would make of it.

    Raises:
      ConfigError: as `load`.
    """
    raw = experiment.model_dump()
    for key, value in values.items():
        _section(raw, f"config.{key}")[key.rpartition(".")[2]] = value
    return resolve(raw)
