"""Generative adversarial networks (Goodfellow et al. 2014): an MLP pair on vectors, any number of critic updates.

Each step returns the one network that it moves, so a generator update cannot move the critic, nor the other way round.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gen_jax import ops
from gen_jax.errors import ConfigError
from gen_jax.models.base import Batch, Optimiser, Terms
from gen_jax.nets.mlp import MLP
from gen_jax.sampling import SampleOptions
from gen_jax.settings import NonNegative, Positive, Settings
from gen_jax.state import Mean, Net, State


class Config(Settings):
    """The section `config.model`; `config.optim` has the entries `gen` and `disc`.

    The batch of the data is `n_critic` batches of the critic: set `batch_size = n_critic * critic_batch`.

    data_dim: numbers of one example.
    latent: of the noise.
    width, depth: hidden layers of both networks.
    loss: logistic with the non-saturating generator, or Wasserstein with gradient penalty.
    penalty: weight of the gradient penalty; the Wasserstein loss alone has one.
    n_critic: critic updates for each generator update.
    """

    data_dim: Positive = 2
    latent: Positive = 16
    width: Positive = 128
    depth: Positive = 3
    loss: Literal["non_saturating", "wgan_gp"] = "wgan_gp"
    penalty: NonNegative = 1.0
    n_critic: Positive = 5


class Network(nn.Module):
    """Hidden ReLU layers of `widths` and a linear layer to `features`."""

    features: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "B _"]) -> Float[Array, "B F"]:
        return nn.Dense(self.features)(MLP(self.widths)(x))


def logistic_critic(real: Float[Array, " B"], fake: Float[Array, " B"]) -> Float[Array, " B"]:
    """-log D(x) - log(1 - D(G(z))) in nats, from logits (Goodfellow 2014, eq. 1)."""
    return nn.softplus(-real) + nn.softplus(fake)


def non_saturating_generator(fake: Float[Array, " B"]) -> Float[Array, " B"]:
    """-log D(G(z)) in nats, from logits (Goodfellow 2014, section 3)."""
    return nn.softplus(-fake)


def wasserstein_critic(real: Float[Array, " B"], fake: Float[Array, " B"]) -> Float[Array, " B"]:
    """f(G(z)) - f(x) (Arjovsky 2017, eq. 2), negated since we minimise."""
    return fake - real


def wasserstein_generator(fake: Float[Array, " B"]) -> Float[Array, " B"]:
    """-f(G(z))."""
    return -fake


def gradient_penalty(
    critic: Callable[[Array], Array], real: Float[Array, "B *D"], fake: Float[Array, "B *D"], rng: Key[Array, "*rows"]
) -> Float[Array, " B"]:
    """(|df/dx| - 1)^2 at a uniform point between a real and a fake example (Gulrajani 2017, eq. 3).

    `critic` maps [B, ...] to [B], each row by itself; `rng` is one key, or one a row.
    """
    mix = ops.uniform(rng, (len(real), *(1 for _ in real.shape[1:])))
    slope = jax.grad(lambda x: critic(x).sum())(real + mix * (fake - real))
    norm = jnp.sqrt((slope**2).sum(range(1, slope.ndim)) + 1e-12)  # the root has no gradient at 0
    return (norm - 1) ** 2


LOSSES = {
    "non_saturating": (logistic_critic, non_saturating_generator),
    "wgan_gp": (wasserstein_critic, wasserstein_generator),
}


@dataclasses.dataclass(frozen=True)
class GAN:
    """Two networks and their optimisers. `penalty` 0 leaves the gradient penalty out."""

    generator: nn.Module  # [B, latent] -> [B, D]
    critic: nn.Module  # [B, D] -> logits [B, 1]
    gen_optimiser: Optimiser
    disc_optimiser: Optimiser
    latent: int
    critic_loss: Callable[[Any, Any], Any]
    generator_loss: Callable[[Any], Any]
    penalty: float
    n_critic: int

    def init(self, rng: jax.Array, batch: Batch) -> State:
        gen_rng, disc_rng = jax.random.split(rng)
        gen = self.generator.init(gen_rng, jnp.zeros((1, self.latent)))
        disc = self.critic.init(disc_rng, batch["vector"][:1])
        nets = {"gen": self.gen_optimiser.init(gen), "disc": self.disc_optimiser.init(disc)}
        return State(jnp.zeros((), jnp.int32), nets)

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]:
        """`n_critic` critic updates on a share of the batch each, then one generator update.

        Raises ConfigError where the batch does not divide by `n_critic`.
        """
        rows, n = len(batch["vector"]), self.n_critic
        if rows % n:
            raise ConfigError(f"batch_size: expected a multiple of model.n_critic = {n}, got {rows}")
        # [B, D] -> [n, B/n, D] with the rows of each device spread over all updates
        reals = batch["vector"].reshape(rows // n, n, -1).swapaxes(0, 1)
        gen, disc = state.nets["gen"], state.nets["disc"]
        critic_rng, gen_rng = jax.random.split(jax.random.fold_in(rng, state.step))

        def body(disc, xs):
            return self.critic_step(disc, gen, *xs)

        disc, critic_means = ops.scan(body, disc, (reals, jax.random.split(critic_rng, n)))
        gen, gen_means = self.generator_step(gen, disc, reals[-1], gen_rng)
        means = jax.tree.map(lambda x: x.sum(0), critic_means) | gen_means
        return State(state.step + 1, {"gen": gen, "disc": disc}), means

    def critic_step(self, disc: Net, gen: Net, real: Array, rng: jax.Array) -> tuple[Net, dict[str, Mean]]:
        """One update of the critic on `real` [B, D] and as many fakes."""

        def loss_fn(params, stats, batch, rng):
            means = self.critic_terms({"params": params, **stats}, gen.variables, batch["vector"], rng)
            return Terms(means | {"loss": means["critic_loss"]}, stats)

        disc, terms = self.disc_optimiser.step(disc, loss_fn, {"vector": real}, rng)
        return disc, _named(terms.means, "critic")

    def generator_step(self, gen: Net, disc: Net, real: Array, rng: jax.Array) -> tuple[Net, dict[str, Mean]]:
        """One update of the generator on as many fakes as `real` has rows; their values play no part."""

        def loss_fn(params, stats, batch, rng):
            fake = self.generator.apply({"params": params, **stats}, self._noise(rng, len(batch["vector"])))
            loss = Mean.of(self.generator_loss(self._logits(disc.variables, fake)))
            return Terms({"loss": loss, "generator_loss": loss}, stats)

        gen, terms = self.gen_optimiser.step(gen, loss_fn, {"vector": real}, rng)
        return gen, _named(terms.means, "generator")

    def critic_terms(self, disc: dict, gen: dict, real: Array, rng: jax.Array) -> dict[str, Mean]:
        """The critic's loss and its parts on `real` [B, D], a row an example.

        Args:
          disc, gen: variables of the two networks.
          rng: one key, or one a row [B].
        """
        noise_rng, mix_rng = ops.split(rng, 2)
        fake: Any = self.generator.apply(gen, self._noise(noise_rng, len(real)))
        real_logits, fake_logits = self._logits(disc, real), self._logits(disc, fake)
        loss = self.critic_loss(real_logits, fake_logits)
        means = {"logit_gap": Mean.of(real_logits - fake_logits)}
        if self.penalty:
            penalty = gradient_penalty(lambda x: self._logits(disc, x), real, fake, mix_rng)
            loss = loss + self.penalty * penalty
            means["gradient_penalty"] = Mean.of(penalty)
        return means | {"critic_loss": Mean.of(loss)}

    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        """The critic's terms: a fake for each real example, keyed by its index.

        Each network is its average where its optimiser keeps one, else the live one. With an average of the generator
        alone, the live critic meets fakes that it was not trained on: `logit_gap` is then no estimate of a distance
        between data and live generator.
        """
        nets = state.nets
        keys = ops.row_keys(rng, batch["index"])
        means = self.critic_terms(nets["disc"].averaged, nets["gen"].averaged, batch["vector"], keys)
        return {name: mean.where(batch["valid"]) for name, mean in means.items()}

    def sample(self, state: State, rng: jax.Array, n: int, options: SampleOptions) -> Array:
        """float32 [n, D]; `options.temperature` scales the noise."""
        noise = self._noise(rng, n) * options.temperature
        vectors: Any = self.generator.apply(state.nets["gen"].averaged, noise)
        return vectors

    def _noise(self, rng, rows):
        return ops.normal(rng, (rows, self.latent))

    def _logits(self, variables, x):
        logits: Any = self.critic.apply(variables, x)  # [B, 1]
        return logits.squeeze(-1)


def _named(means: dict[str, Mean], net: str) -> dict[str, Mean]:
    """Drops the hook's "loss", which has a name of its own, and says whose gradient norm it is."""
    return {f"{net}_{k}" if k == "grad_norm" else k: v for k, v in means.items() if k != "loss"}


def from_config(cfg: Config, txs: dict[str, Optimiser]) -> GAN:
    critic_loss, generator_loss = LOSSES[cfg.loss]
    widths = (cfg.width,) * cfg.depth
    return GAN(
        generator=Network(cfg.data_dim, widths),
        critic=Network(1, widths),
        gen_optimiser=txs["gen"],
        disc_optimiser=txs["disc"],
        latent=cfg.latent,
        critic_loss=critic_loss,
        generator_loss=generator_loss,
        penalty=cfg.penalty if cfg.loss == "wgan_gp" else 0.0,
        n_critic=cfg.n_critic,
    )
