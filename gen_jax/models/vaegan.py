"""VAE-GAN (Larsen et al. 2016): an autoencoder whose likelihood is a distance in the features of a critic.

Three networks, each updated by its own step on its own loss. All three gradients are taken at the parameters before the
update.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
from pydantic import model_validator

from gen_jax.core import losses, ops
from gen_jax.core.adversarial import LOSSES, Loss, saturating_generator, sure
from gen_jax.core.gradients import Batch, Optimizer, Terms, players
from gen_jax.core.info import Info
from gen_jax.core.sampling import Noise
from gen_jax.core.state import Mean, Net, PyTree, State
from gen_jax.models.base import ModelConfig
from gen_jax.nets.conv import ConvDecoder, ConvEncoder
from gen_jax.nets.mlp import GaussianHead
from gen_jax.settings import NonNegative, Positive, Widths

NETS = ("enc", "gen", "disc")


class Config(ModelConfig):
    """The section `config.model`; `config.optim` has the entries `enc`, `gen` and `disc`."""

    image: tuple[Positive, Positive, Positive] = (28, 28, 1)
    """(height, width, channels)."""
    widths: Widths = (32, 64)
    """Channels of the encoder's stride-2 stages; the generator mirrors them."""
    critic_widths: Widths = (32, 64)
    """Channels of the critic's stages. The last stage gives the features."""
    latent: Positive = 32
    """Dimensions of the latent."""
    gamma: NonNegative = 0.01
    """Weight of the reconstruction in the generator's loss, against the adversarial part. The paper's gamma."""
    loss: Literal["minimax", "non_saturating"] = "minimax"
    """The generator's adversarial loss: `minimax` as published, or `non_saturating`, whose gradient does not vanish
    once the critic is sure."""

    @model_validator(mode="after")
    def _sides_divide(self) -> "Config":
        for name in ("widths", "critic_widths"):
            stages = 2 ** len(getattr(self, name))
            if stages == 1 or self.image[0] % stages or self.image[1] % stages:
                raise ValueError(f"{name}: expected 1 or more, with image sides divisible by 2**len = {stages}")
        return self

    def check_data(self, info: Info) -> None:
        info.require_images("image", self.image)


class Sampling(Noise):
    """The section `config.sampling`."""


class Encoder(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> mean and log-variance [B, D] of q(z | x)."""

    widths: tuple[int, ...]
    latent: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        return GaussianHead(self.latent)(ConvEncoder(self.widths)(x))


class Generator(nn.Module):
    """Latents [B, D] -> images [B, *shape] in [-1, 1]."""

    shape: tuple[int, int, int]
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, z: Float[Array, "B D"]) -> Float[Array, "B H W C"]:
        return nn.tanh(ConvDecoder(self.shape, self.widths)(z))


class Critic(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> features [B, F] of the last convolution, and logits [B]."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> tuple[Float[Array, "B F"], Float[Array, " B"]]:
        features = ConvEncoder(self.widths, nn.leaky_relu)(x)
        return features, nn.Dense(1)(features)[:, 0]


@dataclasses.dataclass(frozen=True)
class VAEGAN:
    """Encoder, generator (the decoder) and critic with their optimizers."""

    encoder: nn.Module  # [B, H, W, C] -> mean, log-variance [B, D]
    generator: nn.Module  # [B, D] -> [B, H, W, C] in [-1, 1]
    critic: nn.Module  # [B, H, W, C] -> features [B, F], logits [B]
    optimizers: tuple[Optimizer, ...]  # of NETS
    latent: int
    gamma: float
    loss: Loss

    def init(self, rng: jax.Array, batch: Batch) -> State:
        x = ops.to_signed(batch["image"][:1])
        modules, inputs = (self.encoder, self.generator, self.critic), (x, jnp.zeros((1, self.latent)), x)
        parts = zip(NETS, self.optimizers, modules, jax.random.split(rng, len(NETS)), inputs, strict=True)
        nets = {name: optimizer.init(module.init(key, at)) for name, optimizer, module, key, at in parts}
        return State(jnp.zeros((), jnp.int32), nets)

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]:
        """Algorithm 1: every gradient is taken at the parameters before the step, with the same noise.

        The three steps are written as three forward passes; XLA computes what they share once.
        """
        rng = jax.random.fold_in(rng, state.step)
        nets, means = {}, {}
        for name in NETS:
            nets[name], found = self.net_step(name, state.nets, batch, rng)
            means |= found
        return State(state.step + 1, nets), means

    def net_step(self, name: str, nets: dict[str, Net], batch: Batch, rng: jax.Array) -> tuple[Net, dict[str, Mean]]:
        """One update of the network `name` on its own loss, the others fixed; and all terms of the batch."""
        others = {other: net.variables for other, net in nets.items() if other != name}

        def loss_fn(params, stats, batch, rng):
            means = self.terms(others | {name: {"params": params, **stats}}, batch, rng)
            return Terms(means | {"loss": means[f"{name}_loss"]}, stats)

        net, terms = self.optimizers[NETS.index(name)].step(nets[name], loss_fn, batch, rng)
        return net, terms.named(name)

    def terms(self, nets: dict[str, PyTree], batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        """The three losses and their parts, a row an example, in nats but for weights.

        `kl` is L_prior. `feature_rec` is L_llike up to a constant: |f(x) - f(x~)|^2 / 2, the features f of the critic
        being Gaussian with unit variance about those of the reconstruction x~ (eq. 6 and 7). The adversarial loss has
        three terms: data, reconstructions and images of prior noise (section 2.3). With L_GAN as a cross-entropy, whose
        sign is that of algorithm 1 and not of eq. 8:

          enc_loss = L_prior + L_llike, gen_loss = gamma L_llike - L_GAN (the generator's part), disc_loss = L_GAN.

        `logit_gap` and `critic_saturation` are those of data and images of prior noise.

        Args:
          nets: variables of NETS.
          rng: one key, or one a row [B].
        """
        posterior_rng, prior_rng = ops.split(rng, 2)
        x = ops.to_signed(batch["image"])
        shape = (len(x), self.latent)
        mean, log_var = self._encode(nets["enc"], x)
        z = mean + jnp.exp(0.5 * log_var) * ops.normal(posterior_rng, shape)
        prior = ops.constrain(ops.normal(prior_rng, shape), ops.ROWS)  # made of noise alone, it would be made whole
        (features, real), (made_features, rec), (_, fake) = (
            self._judge(nets["disc"], image)
            for image in (x, self._generate(nets["gen"], z), self._generate(nets["gen"], prior))
        )
        kl = losses.kl_to_standard_normal(mean, log_var).sum(1)
        feature_rec = ((features - made_features) ** 2).sum(1) / 2
        adversarial = self.loss.generator(real, rec) + self.loss.generator(real, fake)
        parts = {
            "kl": kl,
            "feature_rec": feature_rec,
            "adversarial": adversarial,
            "enc_loss": kl + feature_rec,
            "gen_loss": self.gamma * feature_rec + adversarial,
            "disc_loss": self.loss.critic(real, rec) - saturating_generator(real, fake),
            "logit_gap": real - fake,
            "critic_saturation": sure(self.loss, real, fake),
        }
        return {name: Mean.of(part) for name, part in parts.items()}

    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        """The same terms with averaged networks. The noise is keyed by the example."""
        nets = {name: net.averaged for name, net in state.nets.items()}
        means = self.terms(nets, batch, ops.row_keys(rng, batch["index"]))
        return {name: mean.where(batch["valid"]) for name, mean in means.items()}

    def encode(self, state: State, batch: Batch) -> Float[Array, "B D"]:
        """Posterior means."""
        return self._encode(state.nets["enc"].averaged, ops.to_signed(batch["image"]))[0]

    def decode(self, state: State, latents: Float[Array, "B D"]) -> UInt8[Array, "B H W C"]:
        """Images of latents."""
        return ops.signed_to_uint8(self._generate(state.nets["gen"].averaged, latents))

    def sample(self, state: State, rng: jax.Array, n: int, options: Sampling) -> UInt8[Array, "n H W C"]:
        """Images of latents from the prior. `options.temperature` is the prior's standard deviation."""
        return self.decode(state, options.temperature * jax.random.normal(rng, (n, self.latent)))

    def _encode(self, variables: PyTree, x: Array) -> Any:
        return self.encoder.apply(variables, x)

    def _generate(self, variables: PyTree, z: Array) -> Any:
        return self.generator.apply(variables, z)

    def _judge(self, variables: PyTree, x: Array) -> Any:
        return self.critic.apply(variables, x)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> VAEGAN:
    """Raises ConfigError if `optimizers` are not those of NETS."""
    return VAEGAN(
        encoder=Encoder(cfg.widths, cfg.latent),
        generator=Generator(cfg.image, cfg.widths[::-1]),
        critic=Critic(cfg.critic_widths),
        optimizers=players(optimizers, *NETS),
        latent=cfg.latent,
        gamma=cfg.gamma,
        loss=LOSSES[cfg.loss],
    )
