"""Gaussian diffusion and flow matching on images: a denoiser trained at all noise levels, sampled step by step.

DDPM (Ho et al. 2020), VDM (Kingma et al. 2021), EDM (Karras et al. 2022) and flow matching (Lipman et al. 2023) are
choices of schedule, target, weighting and times.
"""

import dataclasses
from typing import Literal

import jax
from jaxtyping import Array, Float, UInt8

from gen_jax.core import bound, guidance, ops
from gen_jax.core.denoising import Denoised
from gen_jax.core.gradients import Batch, Optimizer, Terms, require_optimizers
from gen_jax.core.noise import Examples, Schedule
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.diffusion_base import DiffusionConfig, DiffusionSampling, GaussianDiffusion

LEVELS = 256  # of a pixel
ODE_STEPS = 64  # of the likelihood
DYNAMIC = 0.995  # percentile of the dynamic threshold


class Config(DiffusionConfig):
    """The section `config.model`."""


class Sampling(DiffusionSampling):
    """The section `config.sampling`."""

    threshold: Literal["none", "static", "dynamic"] = "static"
    """Limits the estimate of the image at each step: `static` clips it, `dynamic` scales it (Saharia et al. 2022)."""

    def limited(self, found: Denoised, schedule: Schedule, z: Examples, log_snr: Float[Array, ""]) -> Denoised:
        if self.threshold == "none":
            return found
        return guidance.thresholded(found, schedule, z, log_snr, DYNAMIC if self.threshold == "dynamic" else 1.0)


@dataclasses.dataclass(frozen=True)
class Diffusion(GaussianDiffusion):
    """`elbo` is the variational bound on log P(image | class), `log_prob` the likelihood by the ODE."""

    discrete_likelihood: bool = True
    normalised_likelihood: bool = True

    def examples(self, batch: Batch) -> Float[Array, "B H W C"]:
        return ops.to_signed(batch["image"])

    def shown(self, state: State, x: Float[Array, "n H W C"]) -> UInt8[Array, "n H W C"]:
        return ops.signed_to_uint8(x)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, the weighted squared error; in evaluation also `elbo` and its parts, nats an image."""
        loss = super().terms(variables, batch, rng, step=step, train=train)
        if train:
            return loss
        bound_rng = ops.split(rng, 5)[4]  # the loss has the first four
        denoiser = self.denoiser(variables, self.label_of(batch))
        parts = bound.terms(self.schedule, denoiser, self.examples(batch), bound_rng, LEVELS)
        return Terms(loss.means | {name: Mean.of(part) for name, part in parts.items()})

    def log_prob(self, state: State, batch: Batch, rng: jax.Array, num_samples: int) -> Float[Array, " B"]:
        """A lower bound on log P(image | class), nats, in the mean over `num_samples` dequantizations."""
        denoiser = self.denoiser(state.nets["net"].averaged, self.label_of(batch))
        x, keys, settings = self.examples(batch), ops.row_keys(rng, batch["index"]), (num_samples, LEVELS, ODE_STEPS)
        return bound.dequantized_log_prob(self.schedule, denoiser, x, keys, *settings)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> Diffusion:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    return Diffusion(cfg.network(), optimizers["net"], **cfg.choices())
