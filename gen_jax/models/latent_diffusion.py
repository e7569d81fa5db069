"""Diffusion over the latents of a trained VAE or VQ-VAE (Rombach et al. 2022; Vahdat et al. 2021).

A VAE's latents are maps 1x1xD of posterior means, a VQ-VAE's the vectors of its codes, h x w x D. Each channel is
scaled by its mean and its deviation over the training data, which are measured before the first step and kept in
`State.extra`.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Float, UInt8

from gen_jax.core.denoising import SIGMA_DATA
from gen_jax.core.gradients import Batch, Optimizer, require_optimizers
from gen_jax.core.state import Mean, State
from gen_jax.models import vae, vqvae
from gen_jax.models.base import ModelConfig
from gen_jax.models.diffusion_base import DiffusionConfig, DiffusionSampling, GaussianDiffusion, Times
from gen_jax.models.second_stage_base import SecondStage, SecondStageConfig
from gen_jax.settings import Positive, validate

FIRST_STAGES = {"vae": vae, "vqvae": vqvae}
SMALLEST_STD = 1e-6  # of a channel that is constant


class Config(SecondStageConfig, DiffusionConfig):
    """The section `config.model`; `config.init_from` names the run of the first stage."""

    image: tuple[Positive, Positive, Positive]
    """(height, width, channels) of the latents: (1, 1, latent) of a VAE, (rows, columns, code_width) of a VQ-VAE."""
    first_stage_name: Literal["vae", "vqvae"] = "vqvae"
    """The model of that run."""
    first_stage: pydantic.SerializeAsAny[ModelConfig]
    """The section `config.model` of that run."""

    @pydantic.field_validator("first_stage", mode="before")
    @classmethod
    def _of_its_model(cls, section: Any, info: Any) -> Any:
        if isinstance(section, ModelConfig) or "first_stage_name" not in info.data:
            return section
        return validate(FIRST_STAGES[info.data["first_stage_name"]].Config, section, "config.model.first_stage")

    @pydantic.model_validator(mode="after")
    def _fits_the_first_stage(self) -> "Config":
        first: Any = self.first_stage
        if self.first_stage_name == "vae" and first.num_classes:
            raise ValueError("first_stage.num_classes: expected 0: latents of another class would be decoded")
        shape = (1, 1, first.latent) if self.first_stage_name == "vae" else (*first.grid, first.code_width)
        if self.image != shape:
            raise ValueError(f"image: expected {shape}, the latents of first_stage, got {self.image}")
        return self


class Sampling(DiffusionSampling):
    """The section `config.sampling`."""


@dataclasses.dataclass(frozen=True)
class LatentDiffusion(SecondStage, GaussianDiffusion):
    """`State.extra` holds the mean and the deviation of each channel."""

    def init(self, rng: jax.Array, batch: Batch) -> State:
        state, channels = super().init(rng, batch), self.image[-1]
        return dataclasses.replace(state, extra={"mean": jnp.zeros(channels), "std": jnp.ones(channels)})

    def measure(self, state: State, batch: Batch) -> dict[str, Mean]:
        """Mean and mean square of each channel."""
        maps = self._maps(state, batch)
        return {
            name: Mean.of(values.mean((1, 2))).where(batch["valid"][:, None])
            for name, values in {"mean": maps, "square": maps**2}.items()
        }

    def measured(self, state: State, found: dict[str, Array]) -> State:
        """The state with these means of `measure`."""
        std = jnp.sqrt(jnp.maximum(found["square"] - found["mean"] ** 2, SMALLEST_STD**2))
        return dataclasses.replace(state, extra={"mean": found["mean"], "std": std})

    def examples(self, batch: Batch) -> Float[Array, "B h w D"]:
        return batch["scaled"]

    def shown(self, state: State, x: Float[Array, "n h w D"]) -> UInt8[Array, "n H W C"]:
        """Decoded by the first stage, a VQ-VAE from the nearest codes."""
        maps, first = state.extra["mean"] + state.extra["std"] / SIGMA_DATA * x, self.first(state)
        latents = self.first_stage.quantise(first, maps) if self.quantised else maps[:, 0, 0]
        return self.first_stage.decode(first, latents)

    def timed_loss(self, state: State, batch: Batch, t: Times, rng: jax.Array) -> Times:
        return super().timed_loss(state, self.with_inputs(state, batch), t, rng)

    def with_inputs(self, state: State, batch: Batch) -> Batch:
        """The batch with `scaled` maps of the latents."""
        maps = self._maps(state, batch)
        return batch | {"scaled": SIGMA_DATA * (maps - state.extra["mean"]) / state.extra["std"]}

    def _maps(self, state: State, batch: Batch) -> Float[Array, "B h w D"]:
        latents = super().with_inputs(state, batch)["latents"]
        if not self.quantised:
            return latents[:, None, None]
        return self.first_stage.embed(self.first(state), latents.astype(jnp.int32))


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> LatentDiffusion:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    first: Any = FIRST_STAGES[cfg.first_stage_name]
    stage = first.from_config(cfg.first_stage, optimizers)  # its optimizer is never asked
    return LatentDiffusion(**cfg.parts(optimizers["net"]), first_stage=stage)
