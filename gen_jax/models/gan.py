"""Generative adversarial networks (Goodfellow et al. 2014) on images and vectors, conditional or not.

Each step returns the one network that it updates, so a generator step cannot change the critic, or the reverse.
"""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8
from pydantic import Field, model_validator

from gen_jax.core import adversarial, ops
from gen_jax.core.adversarial import LOSSES, PENALTIES, Loss, Penalties
from gen_jax.core.augment import View, view
from gen_jax.core.gradients import Batch, Optimizer, Terms, players
from gen_jax.core.info import Info
from gen_jax.core.sampling import Classes, Noise
from gen_jax.core.state import Mean, Net, PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.models.base import ModelConfig
from gen_jax.nets.gan import check_pair, pair, run
from gen_jax.settings import Count, Fraction, NonNegative, Period, Positive, Steps, Widths


class Config(ModelConfig):
    """The section `config.model`. `config.optim` has `gen` and `disc`. Set `batch_size = n_critic * critic_batch`."""

    image: tuple[Positive, ...] = ()
    """(height, width, channels); empty if the data are vectors of `data_dim` numbers."""
    data_dim: Count = 0
    """Dimensions of a vector; 0 if the data are images."""
    net: Literal["mlp", "dcgan", "resnet"] = "mlp"
    """`mlp` has hidden layers of `widths`; `dcgan` and `resnet` have convolutional stages."""
    widths: Widths = Field(default=(128, 128, 128), min_length=1)
    """Widths of the hidden layers, or channels of the generator's stages, each of which doubles the sides."""
    critic_widths: Widths = ()
    """The critic's widths; empty = the generator's in reverse."""
    hidden: Count = 0
    """Features of a dense layer of `dcgan` between maps and noise or logit (Chen et al. 2016); 0 = none."""
    critic_norm: Literal["none", "batch", "spectral"] = "none"
    """Normalization of the critic's features (`batch`) or of its weights (`spectral`)."""
    attention: Count = 0
    """Side (height) of the feature maps at which both networks of `resnet` attend; 0 = none."""
    latent: Positive = 16
    """Dimensions of the noise."""
    num_classes: Count = 0
    """0, or the number of classes that both networks are conditioned on."""
    loss: Literal["minimax", "non_saturating", "hinge", "least_squares", "wasserstein", "relativistic"] = (
        "non_saturating"
    )
    """One of the losses in `gen_jax.core.adversarial`."""
    penalties: Penalties = Penalties()
    """Weights of the penalties."""
    penalty_every: Steps = 1
    """Lazy penalties (Karras et al. 2020): applied in one of this many critic updates, multiplied by this number."""
    clip_weights: NonNegative = 0.0
    """The critic's parameters stay in [-clip, clip] (Arjovsky et al. 2017); 0 = off."""
    label_smoothing: Fraction = 0.0
    """One-sided label smoothing of the logistic losses."""
    noise: NonNegative = 0.0
    """Standard deviation of instance noise (Sonderby et al. 2017)."""
    noise_steps: Period = 0
    """Steps over which the instance noise falls to 0."""
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """DiffAugment's policies, in order; empty = none."""
    n_critic: Positive = 1
    """Critic updates for each generator update."""

    @model_validator(mode="after")
    def _fit_together(self) -> "Config":
        if len(self.image) not in (0, 3):
            raise ValueError("image: expected height, width and channels, or nothing")
        if bool(self.image) == bool(self.data_dim):
            raise ValueError("image: expected it or data_dim, and not both")
        if not self.image and (self.net != "mlp" or self.augment):
            raise ValueError("image: expected one beside the nets dcgan and resnet and beside augment")
        check_pair(self.image, self.net, self.widths, self.critic_widths, self.attention, self.hidden)
        if self.critic_norm == "batch" and (self.net != "dcgan" or self.penalties.weights):
            raise ValueError(
                "critic_norm: expected 'batch' beside the net dcgan only, and without penalties: it mixes rows"
            )
        if self.label_smoothing and self.loss not in ("minimax", "non_saturating"):
            raise ValueError("label_smoothing: expected 0 beside another loss than minimax and non_saturating")
        if bool(self.noise) != bool(self.noise_steps):
            raise ValueError("noise_steps: expected 0 where noise is 0, and at least 1 where it is not")
        return self

    @property
    def updates_per_step(self) -> dict[str, int]:
        """How often each network is updated in a training step."""
        return {"disc": self.n_critic}

    def check_data(self, info: Info) -> None:
        info.require_kind("image" if self.image else "vector")
        size = info.shape if self.image else info.shape[0]
        info.require_equal("image" if self.image else "data_dim", self.image or self.data_dim, size)
        info.require_classes("num_classes", self.num_classes)


class Sampling(Noise, Classes):
    """The section `config.sampling`."""


@dataclasses.dataclass(frozen=True)
class GAN:
    """Two networks and their optimizers, a loss, and weighted penalties by name."""

    generator: nn.Module  # (noise [B, L], label [B] or None, train) -> [B, ...]
    critic: nn.Module  # (x [B, ...], label [B] or None, train) -> logits [B]
    gen_optimizer: Optimizer
    disc_optimizer: Optimizer
    latent: int
    num_classes: int
    loss: Loss
    label_smoothing: float
    penalties: tuple[tuple[str, float], ...]
    penalty_every: int
    view: View
    n_critic: int

    def init(self, rng: jax.Array, batch: Batch) -> State:
        gen_rng, disc_rng = jax.random.split(rng)
        x, label = self._examples({name: rows[:1] for name, rows in batch.items()})
        gen = self.generator.init(gen_rng, jnp.zeros((1, self.latent)), label, train=True)
        disc = self.critic.init(disc_rng, x, label, train=True)
        nets = {"gen": self.gen_optimizer.init(gen), "disc": self.disc_optimizer.init(disc)}
        return State(jnp.zeros((), jnp.int32), nets)

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]:
        """`n_critic` critic updates, each on its share of the batch, then one generator update on the last noise.

        Raises ConfigError if `n_critic` does not divide the batch.
        """
        batch = {name: batch[name] for name in ("image", "vector", "label") if name in batch}
        rows, n = len(next(iter(batch.values()))), self.n_critic
        if rows % n:
            raise ConfigError(f"batch_size: expected a multiple of model.n_critic = {n}, got {rows}")
        noise_rng, critic_rng, gen_rng = jax.random.split(jax.random.fold_in(rng, state.step), 3)
        batch = self.with_noise(batch, noise_rng)
        # [B, ...] -> [n, B/n, ...] with the rows of each device spread over all updates
        batches = jax.tree.map(lambda x: x.reshape(rows // n, n, *x.shape[1:]).swapaxes(0, 1), batch)
        gen, disc = state.nets["gen"], state.nets["disc"]

        def body(disc, xs):
            return self.critic_step(disc, gen, *xs)

        updates = state.step * n + jnp.arange(n)
        disc, critic_means = ops.scan(body, disc, (batches, jax.random.split(critic_rng, n), updates))
        # its fakes are the critic's last, which XLA makes once for both where the updates are not a loop
        last = jax.tree.map(lambda x: x[-1], batches)
        gen, gen_means = self.generator_step(gen, disc, last, gen_rng, state.step)
        means = jax.tree.map(lambda x: x.sum(0), critic_means) | gen_means
        seen = (state.step + 1.0) * means["critic_loss"].weight
        confidence, diversity = (means[name].total / means[name].weight for name in ("confidence", "diversity"))
        alarm = adversarial.collapsed(confidence, diversity, seen)
        return State(state.step + 1, {"gen": gen, "disc": disc}), means | {"alarm_collapse": Mean.of(alarm)}

    def critic_step(
        self, disc: Net, gen: Net, batch: Batch, rng: jax.Array, update: Int[Array, ""]
    ) -> tuple[Net, dict[str, Mean]]:
        """The critic's update number `update`, on the rows of `batch` and as many fakes."""

        def loss_fn(params, stats, batch, rng):
            return self.critic_terms({"params": params, **stats}, gen.variables, batch, rng, update=update, train=True)

        disc, terms = self.disc_optimizer.step(disc, loss_fn, batch, rng)
        return disc, terms.named("critic")

    def generator_step(
        self, gen: Net, disc: Net, batch: Batch, rng: jax.Array, step: Int[Array, ""]
    ) -> tuple[Net, dict[str, Mean]]:
        """One generator update on a fake for each row of `batch`, of its class. Only paired losses read the rows."""

        def loss_fn(params, stats, batch, rng):
            real_rng, fake_rng = ops.split(rng, 2)
            x, label = self._examples(batch)
            fake, stats = run(self.generator, {"params": params, **stats}, batch["noise"], label, True)
            real_logits, _ = run(self.critic, disc.variables, self.view(x, real_rng, step), label, True)
            fake_logits, _ = run(self.critic, disc.variables, self.view(fake, fake_rng, step), label, True)
            loss = Mean.of(self.loss.generator(real_logits, fake_logits))
            return Terms({"loss": loss, "generator_loss": loss}, stats)

        gen, terms = self.gen_optimizer.step(gen, loss_fn, batch, rng)
        return gen, terms.named("generator")

    def critic_terms(
        self, disc: PyTree, gen: PyTree, batch: Batch, rng: Key[Array, "*rows"], *, update: Any = 0, train: bool
    ) -> Terms:
        """The critic's loss and its parts, one row an example, and its updated statistics.

        Args:
          disc, gen: variables of the two networks.
          batch: as `with_noise` gives it.
          rng: one key, or one a row [B].
          update: number of the critic's update, for schedules.
          train: use the batch's own statistics, pass examples through `view`, and allow lazy penalties.
        """
        real_rng, fake_rng, mix_rng = ops.split(rng, 3)
        real, label = self._examples(batch)
        fake, _ = run(self.generator, gen, batch["noise"], label, train)
        apart = adversarial.squared_distances
        means = {"diversity": Mean(apart(fake), apart(real))} if train else {}
        if train:
            step = update // self.n_critic
            real, fake = self.view(real, real_rng, step), self.view(fake, fake_rng, step)
        params = disc["params"]
        real_logits, stats = run(self.critic, disc, real, label, train)
        fake_logits, stats = run(self.critic, {"params": params, **stats}, fake, label, train)

        def critic(x):
            return run(self.critic, {"params": params, **stats}, x, label, False)[0]

        loss = adversarial.smoothed(self.loss, self.label_smoothing).critic(real_logits, fake_logits)
        for name, weight in self.penalties:
            means[f"{name}_penalty"], factor = self._penalty(name, critic, (real, fake, mix_rng), update, train)
            loss += weight * factor * means[f"{name}_penalty"].total
        gap = real_logits - fake_logits
        if train:
            unit = (
                jnp.sqrt(((real - fake) ** 2).sum(range(1, real.ndim))) if self.loss.lengths else jnp.full_like(gap, 2)
            )
            means["confidence"] = Mean(jnp.abs(gap), unit)
        means |= {
            "critic_loss": Mean.of(loss),
            "logit_gap": Mean.of(gap),
            "critic_saturation": Mean.of(adversarial.sure(self.loss, real_logits, fake_logits)),
        }
        return Terms(means | {"loss": means["critic_loss"]}, stats)

    def _penalty(self, name, critic, inputs, update, train) -> tuple[Mean, int]:
        """The penalty [B], with weight 0 in updates without it, and its multiplier."""
        compute = functools.partial(PENALTIES[name], critic, *inputs)
        if not train or self.penalty_every == 1:
            return Mean.of(compute()), 1
        due = update % self.penalty_every == 0
        value = ops.where_due(due, compute)
        return Mean(value, jnp.full_like(value, due)), self.penalty_every

    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        """The critic's terms: a fake for each real example, keyed by its index.

        Each network is its average if its optimizer keeps one, else the live network. If only the generator is
        averaged, the live critic sees fakes that it was not trained on: `logit_gap` is then no estimate of a distance
        between data and live generator. Batch norm's running statistics mix real and fake examples, while training
        normalized each batch by itself, so for such a critic these terms are a rough guide.
        """
        gen, disc = (state.nets[name].averaged for name in ("gen", "disc"))
        noise_rng, rng = ops.split(ops.row_keys(rng, batch["index"]), 2)
        terms = self.critic_terms(disc, gen, self.with_noise(batch, noise_rng), rng, train=False)
        return {name: mean.where(batch["valid"]) for name, mean in terms.means.items() if name != "loss"}

    def sample(
        self, state: State, rng: jax.Array, n: int, options: Sampling
    ) -> UInt8[Array, "n H W C"] | Float[Array, "n D"]:
        """`options.temperature` scales the noise; classes come in turn unless `options.label` asks for one."""
        noise = ops.normal(rng, (n, *self.noise_shape)) * options.temperature
        return self.decode_noise(state, noise, options.labels(n, self.num_classes))

    @property
    def noise_shape(self) -> tuple[int]:
        return (self.latent,)

    def decode_noise(self, state: State, noise: Float[Array, "B L"], label: Int[Array, " B"] | None = None) -> Array:
        """Images or vectors of standard normal noise; `label` of a conditional model."""
        x, _ = run(self.generator, state.nets["gen"].averaged, noise, label, False)
        return ops.signed_to_uint8(x) if x.ndim == 4 else x

    def _examples(self, batch: Batch) -> tuple[Array, Array | None]:
        """Images in [-1, 1] or vectors, and their labels if the networks are conditioned on them."""
        x = ops.to_signed(batch["image"]) if "image" in batch else batch["vector"]
        return x, batch["label"] if self.num_classes else None

    def with_noise(self, batch: Batch, rng: Key[Array, "*rows"]) -> Batch:
        """`batch` and the "noise" [B, L] of a fake for each row."""
        x, _ = self._examples(batch)
        # made of noise alone, it would be made whole on each device
        return batch | {"noise": ops.constrain(ops.normal(rng, (len(x), self.latent)), ops.ROWS)}


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> GAN:
    """Raises ConfigError if `optimizers` is not one optimizer called `gen` and one called `disc`."""
    gen, disc = players(optimizers, "gen", "disc")
    if cfg.clip_weights:
        disc = dataclasses.replace(disc, tx=adversarial.clipped(disc.tx, cfg.clip_weights))
    same = "latent", "num_classes", "label_smoothing", "penalty_every", "n_critic"
    fields = ("net", "widths", "num_classes", "critic_norm", "attention", "hidden")
    shape, critic_widths = cfg.image or (cfg.data_dim,), cfg.critic_widths or cfg.widths[::-1]
    return GAN(
        *pair(shape, critic_widths=critic_widths, **{name: getattr(cfg, name) for name in fields}),
        gen_optimizer=gen,
        disc_optimizer=disc,
        loss=LOSSES[cfg.loss],
        penalties=cfg.penalties.weights,
        view=functools.partial(view, policy=cfg.augment, noise=cfg.noise, noise_steps=cfg.noise_steps),
        **{name: getattr(cfg, name) for name in same},
    )
