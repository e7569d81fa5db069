"""Autoencoders of images: plain, variational, beta, conditional and importance-weighted.

Kingma & Welling 2014 (VAE), Higgins et al. 2017 (beta), Bowman et al. 2016 (warm-up), Fu et al. 2019 (cyclical),
Kingma et al. 2016 (free bits), Burda et al. 2016 (IWAE).
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
from pydantic import model_validator

from gen_jax.core import grey, likelihoods, losses, ops
from gen_jax.core.gradients import Batch, Optimizer, Terms, require_optimizers
from gen_jax.core.info import Info
from gen_jax.core.likelihoods import Likelihood
from gen_jax.core.sampling import Classes, Noise
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.nets.autoencoder import Network, PointHead, SharedVarianceHead
from gen_jax.nets.conv import ConvDecoder, ConvEncoder
from gen_jax.nets.mlp import ACTIVATIONS, GaussianHead, MLPDecoder, MLPEncoder
from gen_jax.nets.residual import ResidualDecoder, ResidualEncoder
from gen_jax.settings import Count, NonNegative, Period, Positive, Settings, Widths

LOG_PROB_ROWS = 8192  # decoder rows at a time: large matrix products, and a few hundred MB at most


class Config(ModelConfig):
    """The section `config.model`."""

    image: tuple[Positive, Positive, Positive] = (28, 28, 1)
    """(height, width, channels)."""
    kind: Literal["vae", "ae"] = "vae"
    """`vae`, or `ae` for a plain autoencoder without noise or divergence."""
    net: Literal["linear", "mlp", "conv", "residual"] = "mlp"
    """Network of the encoder, mirrored by the decoder."""
    widths: Widths = (200, 200)
    """Hidden widths of `mlp`, or channels of the stride-2 stages of `conv` and `residual`. `linear` has none."""
    activation: Literal["relu", "tanh", "gelu", "silu"] = "relu"
    """Activation of the hidden layers."""
    latent: Positive = 50
    """Dimensions of the latent."""
    likelihood: Literal["bernoulli", "bernoulli_grey", "gaussian", "logistic_mixture"] = "bernoulli"
    """Likelihood of the pixels.

    `bernoulli` binarizes the grey levels at random at every step (in evaluation the bits of an example are fixed).
    `bernoulli_grey` takes grey levels in [0, 1] as targets of a cross-entropy, which is not a normalized likelihood.
    `gaussian` has one learned scale, on pixels in [0, 1]. `logistic_mixture` is a distribution over the 256 levels.
    """
    mixtures: Positive = 5
    """Mixture components of `logistic_mixture`."""
    beta: NonNegative = 1.0
    """Weight of the KL divergence: 1 is the VAE, larger a beta-VAE."""
    warmup: Literal["none", "linear", "cyclical"] = "none"
    """Schedule of the weight of the KL divergence.

    `linear` raises it from 0 to beta in `warmup_steps`. `cyclical` repeats every `warmup_steps` and rises over the
    first half of each cycle.
    """
    warmup_steps: Period = 0
    """Steps of the warm-up, or of a cycle."""
    free_bits: NonNegative = 0.0
    """Free nats of each latent dimension: below them its KL divergence is not reduced further."""
    k: Positive = 1
    """Importance samples of the training bound (IWAE); 1 is the VAE."""
    num_classes: Count = 0
    """0, or the number of classes that encoder and decoder are conditioned on."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""

    @model_validator(mode="after")
    def _fit_together(self) -> "Config":
        stages = 2 ** len(self.widths)
        if self.net == "linear" and (self.widths or self.likelihood != "gaussian"):
            raise ValueError("net: expected widths=() and likelihood='gaussian' beside 'linear'")
        if self.net in ("conv", "residual") and (not self.widths or self.image[0] % stages or self.image[1] % stages):
            raise ValueError(f"widths: expected 1 or more, with image sides divisible by 2**len(widths) = {stages}")
        if (self.warmup == "none") != (self.warmup_steps == 0):
            raise ValueError("warmup_steps: expected 0 where warmup is 'none', and at least 1 where it is not")
        if self.k > 1 and self.free_bits:
            raise ValueError("free_bits: expected 0 where k > 1, whose bound has no divergence in closed form")
        if self.kind == "ae" and (self.k > 1 or self.beta != 1 or self.free_bits or self.warmup != "none"):
            raise ValueError("kind: expected 'vae' beside k, beta, free_bits or warmup; 'ae' has no divergence")
        return self

    @property
    def levels(self) -> int:
        """Grey levels of a pixel in the likelihood."""
        return 2 if self.likelihood == "bernoulli" else 256

    def check_data(self, info: Info) -> None:
        info.require_images("image", self.image)
        info.require_classes("num_classes", self.num_classes)


class Sampling(Noise, Classes):
    """The section `config.sampling`."""

    def check(self, model: Settings) -> None:
        super().check(model)
        assert isinstance(model, Config)
        for name, value in self if model.kind == "ae" else ():
            if value != type(self).model_fields[name].default:
                raise ValueError(f"{name}: expected none: a plain autoencoder draws no samples")


@dataclasses.dataclass(frozen=True)
class Autoencoder(LossModel):
    """Reconstruction only. Terms: `rec`, minus log p(x | z) in nats an example, and `loss`, the same."""

    likelihood: Likelihood
    num_classes: int

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.network.init(rng, ops.to_unit(batch["image"]), self._label(batch))

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        x = self._observe(batch, rng, train)
        outputs = self.network.apply(variables, x, self._label(batch))
        rec = Mean.of(-self.likelihood.log_prob(outputs, x))
        return Terms({"loss": rec, "rec": rec})

    def encode(self, state: State, batch: Batch) -> Float[Array, "B D"]:
        """Posterior means."""
        return self._posterior(state.nets["net"].averaged, batch)[1]

    def decode(
        self, state: State, latents: Float[Array, "B D"], label: Int[Array, " B"] | None = None
    ) -> UInt8[Array, "B H W C"]:
        """Expected pixels. Raises ConfigError if the model is conditional and `label` is None."""
        if self.num_classes and label is None:
            raise ConfigError(f"decode: expected labels, since model.num_classes is {self.num_classes}")
        outputs = self.network.apply(state.nets["net"].averaged, latents, label, method="decode")
        return ops.to_uint8(self.likelihood.mean(outputs))

    def reconstruct(self, state: State, batch: Batch, rng: jax.Array) -> UInt8[Array, "B H W C"]:
        """Expected pixels at the posterior mean."""
        return self.decode(state, self.encode(state, batch), self._label(batch))

    def _label(self, batch):
        return batch["label"] if self.num_classes else None

    def _observe(self, batch, rng, train):
        """In evaluation an example is always binarized in the same way, so the set is fixed."""
        return self.likelihood.observe(batch["image"], rng if train else grey.evaluation_keys(batch["index"]))

    def _encode(self, variables, x, label) -> Any:
        """Mean and log-variance of q(z | x)."""
        return self.network.apply(variables, x, label, method="encode")

    def _posterior(self, variables, batch) -> Any:
        x = self._observe(batch, None, train=False)
        return x, *self._encode(variables, x, self._label(batch))


@dataclasses.dataclass(frozen=True)
class VAE(Autoencoder):
    """Maximises the k-sample bound on log p(x).

    Terms, in nats an example: `rec`, minus log p(x | z) averaged over the samples; `kl`, KL(q || p(z)) in closed
    form; `elbo` = -rec - kl; `iwae`, the k-sample bound, where k > 1; `loss`. Evaluation uses the full beta.
    """

    latent: int
    beta: float
    warmup: str
    warmup_steps: int
    free_bits: float
    k: int

    @property
    def discrete_likelihood(self) -> bool:
        """Whether `elbo` and `log_prob` are of discrete pixels."""
        return self.likelihood.discrete

    @property
    def normalised_likelihood(self) -> bool:
        """Whether `elbo` and `log_prob` are log-probabilities."""
        return self.likelihood.normalised

    def kl_weight(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The weight of the KL divergence at `step`."""
        if self.warmup == "none":
            return jnp.float32(self.beta)
        if self.warmup == "linear":
            return self.beta * jnp.minimum(step / self.warmup_steps, 1.0)
        return self.beta * jnp.minimum(2 * (step % self.warmup_steps) / self.warmup_steps, 1.0)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        noise_rng, data_rng = ops.split(rng, 2)
        label, beta = self._label(batch), self.kl_weight(step) if train else self.beta
        x = self._observe(batch, data_rng, train)
        mean, log_var = self._encode(variables, x, label)
        noise = ops.normal(noise_rng, (len(x), self.k, self.latent))
        log_px, log_ratio = self._weigh(variables, x, label, mean, log_var, noise)  # [B, k] each
        kl = losses.kl_to_standard_normal(mean, log_var)  # [B, D]
        rec = -log_px.mean(1)
        means = {"elbo": -rec - kl.sum(1), "rec": rec, "kl": kl.sum(1)}
        if self.k == 1:
            means["loss"] = rec + beta * losses.free_bits(kl, self.free_bits)
        else:
            means["iwae"] = _log_mean_exp(log_px + log_ratio)
            means["loss"] = -_log_mean_exp(log_px + beta * log_ratio)
        return Terms({name: Mean.of(value) for name, value in means.items()})

    def log_prob(self, state: State, batch: Batch, rng: jax.Array, num_samples: int) -> Float[Array, " B"]:
        """log p(x) in nats, estimated by `num_samples` importance samples from q: a lower bound in expectation.

        Burda et al. 2016, eq. 8. Every sample has its own key, so neither the batch nor the chunks change the result.
        """
        variables, label, rows = state.nets["net"].averaged, self._label(batch), len(batch["index"])
        x, mean, log_var = self._posterior(variables, batch)
        keys = ops.row_keys(rng, batch["index"])
        chunk = min(num_samples, max(1, LOG_PROB_ROWS // rows))

        def body(log_sum, start):
            number = start + jnp.arange(chunk)
            sample_keys = jax.vmap(lambda key: ops.row_keys(key, number))(keys)  # [B, chunk]
            noise = ops.normal(sample_keys.reshape(-1), (rows * chunk, self.latent)).reshape(rows, chunk, -1)
            log_weight = sum(self._weigh(variables, x, label, mean, log_var, noise))
            log_weight = jnp.where(number < num_samples, log_weight, -jnp.inf)
            return jnp.logaddexp(log_sum, jax.nn.logsumexp(log_weight, axis=1)), None

        starts = jnp.arange(0, num_samples, chunk)
        log_sum, _ = ops.scan(body, jnp.full(rows, -jnp.inf), starts)
        return log_sum - math.log(num_samples)

    def sample(self, state: State, rng: jax.Array, n: int, options: Sampling) -> UInt8[Array, "n H W C"]:
        """Expected pixels of latents from the prior. `options.temperature` is the prior's standard deviation."""
        label = options.labels(n, self.num_classes)
        return self.decode(state, options.temperature * jax.random.normal(rng, (n, self.latent)), label)

    def _weigh(self, variables, x, label, mean, log_var, noise):
        """log p(x | z) and log p(z) - log q(z | x), [B, S] each, at z = mean + std * noise with noise [B, S, D]."""
        rows, samples, _ = noise.shape
        log_var = log_var[:, None]  # [B, 1, D]
        z = mean[:, None] + jnp.exp(0.5 * log_var) * noise
        label = None if label is None else jnp.repeat(label, samples)
        outputs = self.network.apply(variables, z.reshape(rows * samples, -1), label, method="decode")
        outputs = jax.tree.map(lambda a: a.reshape(rows, samples, *a.shape[1:]) if a.ndim else a, outputs)
        return self.likelihood.log_prob(outputs, x[:, None]), 0.5 * (noise**2 + log_var - z**2).sum(-1)


def _log_mean_exp(values):
    return jax.nn.logsumexp(values, axis=1) - math.log(values.shape[1])


def _network(cfg: Config, likelihood: Likelihood) -> Network:
    height, width, channels = cfg.image
    shape, activation = (height, width, channels * likelihood.size), ACTIVATIONS[cfg.activation]
    encoder, decoder = {
        "linear": (MLPEncoder, MLPDecoder),
        "mlp": (MLPEncoder, MLPDecoder),
        "conv": (ConvEncoder, ConvDecoder),
        "residual": (ResidualEncoder, ResidualDecoder),
    }[cfg.net]
    head = SharedVarianceHead if cfg.net == "linear" else GaussianHead
    return Network(
        encoder=encoder(cfg.widths, activation, cfg.dtype),
        head=(PointHead if cfg.kind == "ae" else head)(cfg.latent),
        decoder=decoder(shape, cfg.widths[::-1], activation, cfg.dtype),
        num_classes=cfg.num_classes,
        learned_scale=cfg.likelihood == "gaussian",
    )


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> Autoencoder:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    likelihood = {
        "bernoulli": likelihoods.Bernoulli(),
        "bernoulli_grey": likelihoods.GreyBernoulli(),
        "gaussian": likelihoods.Gaussian(),
        "logistic_mixture": likelihoods.LogisticMixture(cfg.mixtures),
    }[cfg.likelihood]
    network = _network(cfg, likelihood)
    if cfg.kind == "ae":
        return Autoencoder(network, optimizers["net"], likelihood, cfg.num_classes)
    return VAE(
        network,
        optimizers["net"],
        likelihood,
        cfg.num_classes,
        latent=cfg.latent,
        beta=cfg.beta,
        warmup=cfg.warmup,
        warmup_steps=cfg.warmup_steps,
        free_bits=cfg.free_bits,
        k=cfg.k,
    )
