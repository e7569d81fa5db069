"""From a section `config.optim.<net>` to the `Optimizer` of one network."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import optax
from pydantic import model_validator

from gen_jax.core import rules
from gen_jax.core.gradients import Gradients, Optimizer
from gen_jax.core.lora import Lora
from gen_jax.settings import Count, Decay, Fraction, NonNegative, Period, Positive, PositiveFloat, Regex, Settings

# What each rule and each schedule reads, and its defaults. Other fields of these tables must not be set beside it.
ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
RULES: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.0},
    "adam": ADAM,
    "adamw": ADAM,
    "adafactor": {},
    "lion": {"b1": 0.9, "b2": 0.99},
    "muon": {"momentum": 0.95, "consistent_rms": 0.2, "adam_lr": None, "adam_weight_decay": 0.0} | ADAM,
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {"schedule_steps": 0, "end": 0.0},
    "linear": {"schedule_steps": 0, "end": 0.0},
    "step": {"schedule_steps": 0, "drop_at": (0.5, 0.75), "drop": 0.1},
}


class LoraConfig(Settings):
    """Low-rank updates of matrices (Hu et al. 2021) instead of training the matrices."""

    rank: Count = 0
    """Rank of an update; 0 = off."""
    alpha: PositiveFloat = 16.0
    """An update is scaled by alpha / rank."""
    targets: tuple[Regex, ...] = (".*kernel",)
    """Regexes on the paths of the matrices that get one."""
    train: tuple[Regex, ...] = ()
    """Regexes on the paths of parameters that are trained directly, such as a new head."""


class Config(Settings):
    """How one network is updated. A field that is None takes the default of its rule or schedule, or is unused."""

    name: Literal["sgd", "adam", "adamw", "adafactor", "lion", "muon"] = "adam"
    """The rule."""
    lr: PositiveFloat = 1e-3
    """The peak learning rate."""
    warmup: Period = 0
    """Steps of linear rise, from lr / warmup."""
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    """Schedule of the learning rate after the warm-up."""
    schedule_steps: Count | None = None
    """Length of the schedule in steps; 0 = total_steps.

    Set it if a run will be continued with a larger total_steps.
    """
    end: Fraction | None = None
    """The last rate as a share of `lr` (cosine, linear)."""
    drop_at: tuple[Fraction, ...] | None = None
    """Shares of the whole run at which `step` multiplies the rate by `drop`."""
    drop: Fraction | None = None
    """The factor of `step`."""
    b1: Decay | None = None
    """Decay of the first moment: adam, adamw, muon (for what it leaves to AdamW) 0.9; lion 0.9."""
    b2: Decay | None = None
    """Decay of the second moment: adam, adamw, muon 0.999; lion 0.99."""
    eps: PositiveFloat | None = None
    """Added to the root of the second moment: adam, adamw, muon."""
    momentum: Decay | None = None
    """Momentum of sgd (default 0) and muon (0.95)."""
    weight_decay: NonNegative = 0.0
    """Decoupled (adamw, lion, muon), else added to the gradient; on kernels and tables, not on biases and norms."""
    consistent_rms: NonNegative | None = None
    """The RMS of muon's update of a hidden matrix or convolution; 0.2 as AdamW's; 0 = its author's scale."""
    adam_lr: PositiveFloat | None = None
    """The peak rate of the AdamW that muon uses for tables, heads, norms and biases; None = lr."""
    adam_weight_decay: NonNegative | None = None
    """The weight decay of that AdamW."""
    clip: NonNegative = 0.0
    """Largest global norm of the gradient; 0 = off."""
    ema: Decay = 0.0
    """Decay of the averaged weights; 0 = off."""
    freeze: tuple[Regex, ...] = ()
    """Regexes on the paths of parameters that stay as they are."""
    lora: LoraConfig = LoraConfig()
    """With a rank, low-rank updates are trained and the rest is frozen."""
    micro_batches: Positive = 1
    """Parts of a batch over which the gradient is accumulated."""
    skip_nonfinite: bool = False
    """An update whose loss or gradient is not finite is skipped and counted; else the run ends there."""
    skip_above: NonNegative = 0.0
    """An update whose gradient has a larger norm, before clipping, is skipped and counted; 0 = off."""

    @model_validator(mode="after")
    def _all_is_read(self) -> "Config":
        for key, table in (("name", RULES), ("schedule", SCHEDULES)):
            choice = getattr(self, key)
            for field in {field for fields in table.values() for field in fields}:
                if getattr(self, field) is not None and field not in table[choice]:
                    known = ", ".join(table[choice]) or "no such field"
                    raise ValueError(f"{field}: expected None where {key} is {choice!r}, which reads {known}")
        return self

    def read(self) -> dict[str, Any]:
        """The fields that its rule and its schedule use, with their defaults."""
        defaults = RULES[self.name] | SCHEDULES[self.schedule]
        given = {name: getattr(self, name) for name in defaults}
        return {name: defaults[name] if value is None else value for name, value in given.items()}


def schedule(cfg: Config, updates: int, per_step: int = 1) -> optax.Schedule:
    """The learning rate of update 0, 1, ...: a linear rise to `cfg.lr`, then `cfg.schedule` until `updates`.

    Args:
      updates: of the network in the whole run.
      per_step: its updates in a step of the run, in which `warmup` and `schedule_steps` are counted.
    """
    read, warmup = cfg.read(), cfg.warmup * per_step
    total = read.get("schedule_steps", 0) * per_step or updates

    def rate(count: Any) -> Any:
        share = jnp.clip((count - warmup) / max(1, total - warmup), 0, 1)
        shape = {
            "constant": lambda: 1.0,
            "cosine": lambda: read["end"] + (1 - read["end"]) * (1 + jnp.cos(jnp.pi * share)) / 2,
            "linear": lambda: 1 - (1 - read["end"]) * share,
            "step": lambda: math.prod(
                jnp.where(count >= round(at * total), read["drop"], 1.0) for at in read["drop_at"]
            ),
        }[cfg.schedule]()
        return cfg.lr * shape * jnp.minimum(1.0, (count + 1) / max(1, warmup))

    return rate


def transform(
    cfg: Config, updates: int, per_step: int = 1, fused: Mapping[str, int] | None = None
) -> optax.GradientTransformation:
    """Clipping, the rule, weight decay and schedule as one Optax chain; arguments as of `build`."""
    lr, read = schedule(cfg, updates, per_step), cfg.read()
    betas: dict[str, Any] = {name: read[name] for name in ("b1", "b2", "eps") if name in read}
    decay: dict[str, Any] = dict(weight_decay=cfg.weight_decay, mask=rules.decays)

    def muon() -> optax.GradientTransformation:
        share = (read["adam_lr"] or cfg.lr) / cfg.lr
        rest = optax.adamw(
            lambda count: share * lr(count), **betas, weight_decay=read["adam_weight_decay"], mask=rules.decays
        )
        return rules.muon(lr, rest, read["momentum"], read["consistent_rms"], cfg.weight_decay, fused)

    rule = {
        "sgd": lambda: optax.sgd(lr, momentum=read["momentum"] or None),
        "adam": lambda: optax.adam(lr, **betas),
        "adamw": lambda: optax.adamw(lr, **betas, **decay),
        "adafactor": lambda: optax.chain(rules.scale_by_adafactor(), optax.scale_by_learning_rate(lr)),
        "lion": lambda: optax.lion(lr, **betas, **decay),
        "muon": muon,
    }[cfg.name]()
    chain = [optax.clip_by_global_norm(cfg.clip)] if cfg.clip else []
    if cfg.weight_decay and cfg.name in ("sgd", "adam", "adafactor"):
        chain.append(optax.add_decayed_weights(cfg.weight_decay, rules.decays))
    return optax.chain(*chain, rule) if chain else rule


def build(
    cfg: Config,
    updates: int,
    axis_name: str | None = None,
    seed: int = 0,
    per_step: int = 1,
    fused: Mapping[str, int] | None = None,
    net: str = "",
) -> Optimizer:
    """The optimizer of one network.

    Args:
      updates: of the network in the whole run; `per_step` of them in a step.
      axis_name: pmap's axis.
      seed: of the low-rank updates.
      fused: as in `leaves.classify`.
      net: the name of the network.
    """
    return Optimizer(
        tx=transform(cfg, updates, per_step, fused),
        frozen=cfg.freeze,
        ema_decay=cfg.ema,
        gradients=Gradients(cfg.micro_batches, axis_name),
        log_grad_norm=cfg.clip > 0 or cfg.skip_above > 0,
        updates=Lora(cfg.lora.rank, cfg.lora.alpha, cfg.lora.targets, cfg.lora.train, seed) if cfg.lora.rank else None,
        net=net,
        skip_nonfinite=cfg.skip_nonfinite,
        skip_above=cfg.skip_above,
    )
