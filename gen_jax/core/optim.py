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
    """Low-rank updates of matrices (Hu et al. 2021) instead of training the matrices.

    rank: 0 = off. alpha: an update is scaled by alpha / rank.
    targets: regexes on the paths of the matrices that get one. train: of what trains as it is, such as a new head.
    """

    rank: Count = 0
    alpha: PositiveFloat = 16.0
    targets: tuple[Regex, ...] = (".*kernel",)
    train: tuple[Regex, ...] = ()


class Config(Settings):
    """How one network is updated. A field that is None has the default of its rule or schedule, or is not read by it.

    lr: the peak. warmup: steps of linear rise, from lr / warmup.
    schedule: of the rate after the warm-up. schedule_steps: the steps that it is made for; 0 = total_steps. Set it
      where a run will be continued with a larger total_steps. end: last rate as a share of `lr` (cosine, linear).
    drop_at, drop: shares of the whole run at which `step` multiplies the rate by `drop`.
    b1, b2, eps: adam, adamw, muon (for what it leaves to AdamW); lion: b1 0.9, b2 0.99, no eps.
    momentum: sgd 0, muon 0.95.
    weight_decay: decoupled (adamw, lion, muon), added to the gradient otherwise; on kernels and tables, not on biases
      and norms.
    consistent_rms, adam_lr, adam_weight_decay: of muon, which moves hidden matrices and convolutions: the RMS of an
      update, 0.2 as AdamW's (0 = the scale of its author); the peak, None = lr, and the decay of the AdamW that moves
      tables, heads, norms and biases.
    clip: global norm; 0 = off.
    ema: decay of the averaged weights; 0 = off.
    freeze: regexes on parameter paths that stay as they are.
    lora: with a rank, low-rank updates are trained and the rest is frozen.
    micro_batches: gradient accumulation over this many parts of a batch.
    skip_nonfinite: an update whose loss or gradient is not finite is not made, and counted; else the run ends there.
    skip_above: the same for one whose gradient has a larger norm than this, before clipping; 0 = off.
    """

    name: Literal["sgd", "adam", "adamw", "adafactor", "lion", "muon"] = "adam"
    lr: PositiveFloat = 1e-3
    warmup: Period = 0
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    schedule_steps: Count | None = None
    end: Fraction | None = None
    drop_at: tuple[Fraction, ...] | None = None
    drop: Fraction | None = None
    b1: Decay | None = None
    b2: Decay | None = None
    eps: PositiveFloat | None = None
    momentum: Decay | None = None
    weight_decay: NonNegative = 0.0
    consistent_rms: NonNegative | None = None
    adam_lr: PositiveFloat | None = None
    adam_weight_decay: NonNegative | None = None
    clip: NonNegative = 0.0
    ema: Decay = 0.0
    freeze: tuple[Regex, ...] = ()
    lora: LoraConfig = LoraConfig()
    micro_batches: Positive = 1
    skip_nonfinite: bool = False
    skip_above: NonNegative = 0.0

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
        """The fields that its rule and its schedule read, with their defaults."""
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
