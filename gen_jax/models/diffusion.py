"""Gaussian diffusion and flow matching on images: a denoiser trained at all noise levels, sampled step by step.

DDPM (Ho et al. 2020), VDM (Kingma et al. 2021), EDM (Karras et al. 2022) and flow matching (Lipman et al. 2023) are
choices of schedule, target, weighting and times.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
from pydantic import model_validator

from gen_jax.core import bound, guidance, learned_noise, noise, ops, solvers
from gen_jax.core.denoising import Denoised
from gen_jax.core.gradients import Batch, Optimizer, Terms, require_optimizers
from gen_jax.core.noise import Examples, Schedule
from gen_jax.core.solvers import Denoiser
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.abilities_base import Mask
from gen_jax.models.diffusion_base import DiffusionConfig, DiffusionSampling, GaussianDiffusion, Times

LEVELS = 256  # of a pixel
ODE_STEPS = 64  # of the likelihood, and of each way of an inversion
DYNAMIC = 0.995  # percentile of the dynamic threshold


class Config(DiffusionConfig):
    """The section `config.model`."""

    curve: learned_noise.CurveName = "cosine"
    """The log-SNR lambda as a function of time. `learned` starts at lambda_max and lambda_min, and moves them too."""

    @model_validator(mode="after")
    def _learns_by_the_bound(self) -> "Config":
        if self.curve == "learned" and self.weighting != "elbo":
            raise ValueError("weighting: expected 'elbo' beside curve = 'learned', which the bound trains")
        return self


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
    """`elbo` is the variational bound on log P(image | label), `log_prob` the likelihood by the ODE."""

    bound_parts = ("prior_kl", "rec", "diffusion")  # their sum is -elbo
    discrete_likelihood: bool = True
    normalised_likelihood: bool = True

    def examples(self, batch: Batch) -> Float[Array, "B H W C"]:
        return ops.to_signed(batch["image"])

    def shown(self, state: State, x: Float[Array, "n H W C"]) -> UInt8[Array, "n H W C"]:
        return ops.signed_to_uint8(x)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, the weighted squared error; in evaluation also `elbo` and its parts, nats an image.

        With a learned curve the loss is the bound on -log P, nats a value of a pixel.
        """
        means = super().terms(variables, batch, rng, step=step, train=train).means
        bound_rng, x = ops.split(rng, 5)[4], self.examples(batch)  # the loss has the first four
        if self.learns_schedule:
            ends = learned_noise.by_forward_mode(
                lambda params: bound.ends_loss(self._learned(params), x, bound_rng, LEVELS),
                variables["params"]["schedule"],
            )
            means = {"loss": Mean.of(means["loss"].total + ends / x[0].size)}
        if train:
            return Terms(means)
        denoiser = self.denoiser(variables, self.label_of(batch))
        parts = bound.terms(self.schedule_of(variables), denoiser, x, bound_rng, LEVELS)
        return Terms(means | {name: Mean.of(part) for name, part in parts.items()})

    # The learned schedule --------------------------------------------------------------------------------------------

    @property
    def learns_schedule(self) -> bool:
        return self.schedule.curve == "learned"

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        variables = super().init_variables(rng, batch)
        if not self.learns_schedule:
            return variables
        return variables | {"params": variables["params"] | {"schedule": learned_noise.init(self.schedule)}}

    def schedule_of(self, variables: PyTree) -> Schedule:
        return self._learned(variables["params"]["schedule"]) if self.learns_schedule else self.schedule

    def _learned(self, params: PyTree) -> Schedule:
        return learned_noise.learned(self.schedule.scaling, params)

    def loss_at(
        self, variables: PyTree, t: Times, x: Examples, eps: Examples, label: Array | None, rngs: dict | None
    ) -> Times:
        if not self.learns_schedule:
            return super().loss_at(variables, t, x, eps, label, rngs)

        def loss(variables, place, rest):
            share, slope = place
            first, last = learned_noise.ends(variables["params"]["schedule"])
            return self.error(variables, first + (last - first) * share, (last - first) * slope, *rest)

        place = learned_noise.place(variables["params"]["schedule"], t)
        return learned_noise.of_less_variance(loss, variables, place, (x, eps, label, rngs))

    # Likelihood, in-painting, inversion ------------------------------------------------------------------------------

    def log_prob(self, state: State, batch: Batch, rng: jax.Array, num_samples: int) -> Float[Array, " B"]:
        """A lower bound on log P(image | label), nats, in the mean over `num_samples` dequantizations."""
        variables, x, keys = state.nets["net"].averaged, self.examples(batch), ops.row_keys(rng, batch["index"])
        schedule, denoiser = self.schedule_of(variables), self.denoiser(variables, self.label_of(batch))
        return bound.dequantized_log_prob(schedule, denoiser, x, keys, num_samples, LEVELS, ODE_STEPS)

    def inpaint_init(self, state: State, rng: jax.Array, batch: Batch, mask: Mask, options: Sampling) -> PyTree:
        """As `sample_init`, for `label_inpainted`. Where the mask is 1, pixels stay."""
        carry, label = self.sample_init(state, rng, len(mask), options), self.label_inpainted(options, batch, len(mask))
        return carry | {"label": label, "known": self.examples(batch), "mask": mask}

    def sampled(self, state: State, carry: PyTree, options: DiffusionSampling) -> Denoiser:
        found = super().sampled(state, carry, options)
        if "mask" not in carry:
            return found
        known = carry["known"], carry["mask"]
        return lambda z, log_snr: guidance.inpainted(found(z, log_snr), self.schedule, z, log_snr, *known)

    def sample_finish(self, state: State, carry: PyTree, options: DiffusionSampling) -> UInt8[Array, "n H W C"]:
        made = super().sample_finish(state, carry, options)
        return jnp.where(carry["mask"] == 1, self.shown(state, carry["known"]), made) if "mask" in carry else made

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        return self.image

    def encode_noise(self, state: State, batch: Batch) -> Float[Array, "B H W C"]:
        """The noise that the ODE makes each image of (DDIM inversion, Song et al. 2021, section 5.4)."""
        variables, x = state.nets["net"].averaged, self.examples(batch)
        schedule = self.schedule_of(variables)
        alpha, _ = schedule.scales(jnp.float32(schedule.lambda_max))
        return self._travel(variables, alpha * x, self.label_of(batch), -1) / noise.prior_scale(schedule)

    def decode_noise(
        self, state: State, noisy: Float[Array, "B H W C"], label: Int[Array, "B *S"] | None = None
    ) -> UInt8[Array, "B H W C"]:
        """The images that the ODE makes of standard normal noise. `label` None: of no class or caption."""
        variables = state.nets["net"].averaged
        start = solvers.start(self.schedule_of(variables), noisy).z
        label = self.label_or_none(label, len(noisy))
        return self.shown(state, self.clean(variables, self._travel(variables, start, label, 1)))

    def reconstruct(self, state: State, batch: Batch, rng: jax.Array) -> UInt8[Array, "B H W C"]:
        """Images encoded to noise and decoded."""
        return self.decode_noise(state, self.encode_noise(state, batch), self.label_of(batch))

    def _travel(self, variables: PyTree, z: Examples, label: Array | None, direction: int) -> Examples:
        """z at the other end of the ODE. direction: 1 towards data, -1 towards noise."""
        schedule, denoiser = self.schedule_of(variables), self.denoiser(variables, label)
        grid = noise.even_log_snrs(schedule, ODE_STEPS)[::direction]
        return solvers.travel(denoiser, schedule, grid, z, "heun")


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> Diffusion:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    return Diffusion(**cfg.parts(optimizers["net"]))
