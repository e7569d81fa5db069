"""A config: read from a file, completed by the defaults of what it names, overridden by flags, checked.

`load("experiments/vae/mnist.py:smoke", ["--config.optim.net.lr=3e-4"])` gives an `Experiment`, whose every field
has a value; `resolve` does the same for a ConfigDict in hand. Nothing here touches a device.
"""

import ast
import contextlib
import json
import reprlib
import runpy
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import ml_collections
import pydantic
from pydantic import Field

import gen_jax.models
from gen_jax import data, evaluators, paths
from gen_jax.errors import ConfigError, first_line, kind_and_line
from gen_jax.evaluators.base import EvalConfig
from gen_jax.optim import Config as OptimConfig
from gen_jax.settings import (
    LARGEST_SEED,
    Count,
    NonNegative,
    Period,
    Positive,
    Regex,
    Seed,
    Settings,
    Steps,
    UserPath,
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


class Profile(Settings):
    """A profiler trace of steps [start, start + steps) into TensorBoard; steps = 0: none."""

    start: Count = 0
    steps: Count = 0


class Experiment(Settings):
    """A whole config. Periods are in steps; 0 = never (the last step is always logged, evaluated and saved).

    hang_limit_s: seconds without progress after which a run ends with exit code 76 and all stacks on stderr; 0 = never.
      Longer than compiling, than the steps between two logs (the device works on when they are dispatched), than a
      batch and the final computation of an evaluator, and than a restored, or a saved, hashed and uploaded checkpoint.
    memory_check: what cannot fit the memory of the devices, or of the host, is refused before anything is compiled. The
      estimate is a lower bound: state, gradients, resident data, a batch, the largest result of a matrix product.
    num_seeds: so many runs, with the seeds `seed`, `seed` + 1, ..., as one program on one device.
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
    histograms: bool = False
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
    if isinstance(config, ml_collections.ConfigDict):
        config = json.loads(config.to_json_best_effort())
    if not isinstance(config, Mapping):
        raise ConfigError(f"config: expected a ConfigDict or a dict, got {reprlib.repr(config)}")
    raw = dict(config)
    for key in ("data", "model_name", "model", "optim"):
        if key not in raw:
            raise ConfigError(f"config.{key}: expected a value, found none")
    raw["data"] = data.parse(raw["data"])
    raw["model"] = validate(model_module(raw["model_name"]).Config, raw["model"], "config.model")
    evals = raw.get("evals") or {}
    if not isinstance(evals, Mapping):
        raise ConfigError(f"config.evals: expected sections by name, got {reprlib.repr(evals)}")
    raw["evals"] = {name: evaluators.parse(cfg, f"config.evals.{name}") for name, cfg in evals.items()}
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
    try:
        file = Path(paths.expand(path))
        found = file.is_file()
    except (ValueError, OSError) as error:
        raise ConfigError(f"--config: {reprlib.repr(path)}: {first_line(error)}") from None
    if not found:
        known = [str(p) for p in Path("experiments").glob("*/*.py")]
        raise ConfigError(f"--config: no file {path}{nearest(path, known) if known else ''}")
    with _located(spec, file):
        return runpy.run_path(str(file)), arg


@contextlib.contextmanager
def _located(spec: str, file: Path) -> Iterator[None]:
    """What the user's file raises, or ends with, as one line: file, line number and message."""
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        if isinstance(error, SyntaxError) and error.filename == str(file):
            lines.append(error.lineno)
        where = f"{file}:{lines[-1]}" if lines else str(file)
        raise ConfigError(f"--config: {spec}: {where}: {kind_and_line(error)}") from error


def _from_file(spec: str) -> ml_collections.ConfigDict:
    names, arg = _run_file(spec)
    get_config = names.get("get_config")
    if not callable(get_config):
        raise ConfigError(f"--config: {spec}: expected a function get_config(arg), found none")
    with _located(spec, Path(names["__file__"])):
        config = get_config(arg)
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"--config: {spec}: expected get_config to return a ConfigDict, got {reprlib.repr(config)}")
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


def _value(text: str, current: Any) -> Any:
    """What the text of a flag means where the config has `current`: a string stays one, else it is a Python literal."""
    if isinstance(current, str):
        return text
    if isinstance(current, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text  # the check of the config says what it expects there
    if isinstance(current, tuple) and not isinstance(value, tuple | list):
        return (value,)
    return value


def load(spec: str, overrides: list[str]) -> Experiment:
    """Reads `FILE.py[:arg]`, applies `--config.key=value` flags, checks the result.

    The value of a flag is a Python literal, or text where the config has text. That of a section, such as
    `--config.optim.net={'lr':1}`, replaces the keys that it names.

    Raises:
      ConfigError: as `resolve`; also for a flag that names no key of the config.
    """
    experiment = resolve(_from_file(spec))
    raw = experiment.model_dump()
    for override in overrides:
        key, _, text = override.removeprefix("--").partition("=")
        section, name = _section(raw, key), key.rpartition(".")[2]
        value = _value(text, section[name])
        if not isinstance(section[name], dict):
            section[name] = value
        elif isinstance(value, dict):
            section[name] = section[name] | value
        else:
            raise ConfigError(f"{key}: expected a section, such as {{'key': value}}, got {reprlib.repr(value)}")
    return resolve(raw) if overrides else experiment


def replaced(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """A config with other values at its keys, as `{"model.latent": 8}`; what the same flags would make of it.

    Raises:
      ConfigError: as `load`.
    """
    raw = experiment.model_dump()
    for key, value in values.items():
        _section(raw, f"config.{key}")[key.rpartition(".")[2]] = value
    return resolve(raw)
