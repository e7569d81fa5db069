"""From a section `config.optim.<net>` to the `Optimiser` of one network."""

import functools
from typing import Literal

import jax
import optax
import optax.contrib

from gen_jax import leaves
from gen_jax.gradients import Gradients, Optimiser
from gen_jax.lora import Lora
from gen_jax.settings import Count, Decay, Fraction, NonNegative, Positive, PositiveFloat, Regex, Settings
from gen_jax.state import PyTree, path_name


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
    """How one network is updated.

    lr: the peak. warmup: steps of linear rise from 0. end: last learning rate as a share of `lr` (cosine, linear).
    drop_at, drop: shares of the run at which `step` multiplies the rate by `drop`.
    weight_decay: decoupled (AdamW, Lion, Muon), added to the gradient otherwise; on leaves of rank 2 and more.
    clip: global norm; 0 = off. ema: decay of the averaged weights; 0 = off.
    freeze: regexes on parameter paths that stay as they are.
    lora: with a rank, low-rank updates are trained and the rest is frozen.
    micro_batches: gradient accumulation: the batch is cut into so many.
    """

    name: Literal["sgd", "adam", "adamw", "adafactor", "lion", "muon"] = "adam"
    lr: PositiveFloat = 1e-3
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    warmup: Count = 0
    end: Fraction = 0.0
    drop_at: tuple[Fraction, ...] = (0.5, 0.75)
    drop: Fraction = 0.1
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: PositiveFloat = 1e-8
    momentum: Decay = 0.0
    weight_decay: NonNegative = 0.0
    clip: NonNegative = 0.0
    ema: Decay = 0.0
    freeze: tuple[Regex, ...] = ()
    lora: LoraConfig = LoraConfig()
    micro_batches: Positive = 1


def schedule(cfg: Config, updates: int) -> optax.Schedule:
    """Learning rate by update number: warm-up, then `cfg.schedule` over what is left of so many."""
    steps = max(1, updates - cfg.warmup)
    after = {
        "constant": lambda: optax.constant_schedule(cfg.lr),
        "cosine": lambda: optax.cosine_decay_schedule(cfg.lr, steps, cfg.end),
        "linear": lambda: optax.linear_schedule(cfg.lr, cfg.lr * cfg.end, steps),
        "step": lambda: optax.piecewise_constant_schedule(cfg.lr, {round(at * steps): cfg.drop for at in cfg.drop_at}),
    }[cfg.schedule]()
    if not cfg.warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, cfg.lr, cfg.warmup), after], [cfg.warmup])


def decays(params: PyTree) -> PyTree:
    """The mask of weight decay: kernels and tables, not biases, norms and what `leaves` does not know."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not leaves.classify(path_name(path)).vector, params)


def transform(cfg: Config, updates: int) -> optax.GradientTransformation:
    """Clipping, the rule, weight decay and schedule as one Optax chain."""
    lr = schedule(cfg, updates)
    adamw = functools.partial(optax.adamw, weight_decay=cfg.weight_decay, mask=decays)
    lion = functools.partial(optax.lion, weight_decay=cfg.weight_decay, mask=decays)
    rule = {
        "sgd": lambda: optax.sgd(lr, momentum=cfg.momentum or None),
        "adam": lambda: optax.adam(lr, eps=cfg.eps, b1=cfg.b1, b2=cfg.b2),
        "adamw": lambda: adamw(lr, eps=cfg.eps, b1=cfg.b1, b2=cfg.b2),
        "adafactor": lambda: optax.adafactor(lr),
        "lion": lambda: lion(lr, b1=cfg.b1, b2=cfg.b2),
        "muon": lambda: optax.contrib.muon(
            lr, weight_decay=cfg.weight_decay, weight_decay_mask=decays, adam_b1=cfg.b1, adam_b2=cfg.b2
        ),
    }[cfg.name]()
    chain = [optax.clip_by_global_norm(cfg.clip)] if cfg.clip else []
    if cfg.weight_decay and cfg.name in ("sgd", "adam", "adafactor"):
        chain.append(optax.add_decayed_weights(cfg.weight_decay, decays))
    return optax.chain(*chain, rule) if chain else rule


def build(cfg: Config, updates: int, axis_name: str | None = None, seed: int = 0) -> Optimiser:
    """The optimiser of a network of so many updates; `axis_name` is pmap's, `seed` that of the low-rank updates."""
    return Optimiser(
        tx=transform(cfg, updates),
        frozen=cfg.freeze,
        ema_decay=cfg.ema,
        gradients=Gradients(cfg.micro_batches, axis_name),
        log_grad_norm=cfg.clip > 0,
        updates=Lora(cfg.lora.rank, cfg.lora.alpha, cfg.lora.targets, cfg.lora.train, seed) if cfg.lora.rank else None,
    )
