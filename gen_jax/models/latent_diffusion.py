"""Diffusion over the latents of a trained VAE or VQ-VAE (Rombach et al. 2022; Vahdat et al. 2021).

A VAE's latents are maps 1x1xD of posterior means, a VQ-VAE's the vectors of its codes, h x w x D. Each channel is
scaled by its mean and its deviation over the training data, which are measured before the first step and kept in
`State.extra`.
"""

import dataclasses
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Float, UInt8

from gen_jax.core.denoising import SIGMA_DATA
from gen_jax.core.gradients import Batch, Optimizer, require_optimizers
from gen_jax.core.info import Info
from gen_jax.core.state import Mean, Net, PyTree, State
from gen_jax.models import vae, vqvae
from gen_jax.models.base import ModelConfig
from gen_jax.models.diffusion_base import DiffusionConfig, DiffusionSampling, GaussianDiffusion, Times
from gen_jax.settings import Positive, validate

FIRST_STAGES = {"vae": vae, "vqvae": vqvae}
SMALLEST_STD = 1e-6  # of a channel that is constant


class Config(DiffusionConfig):
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

    def example(self) -> Info | None:
        found, first = super().example(), cast(Any, self.first_stage)
        return found and dataclasses.replace(found, shape=first.image)

    def check_data(self, info: Info) -> None:
        info.require_images("first_stage.image", cast(Any, self.first_stage).image)
        info.require_classes("num_classes", self.num_classes)
        info.require_captions("vocab", self.vocab)


class Sampling(DiffusionSampling):
    """The section `config.sampling`."""


@dataclasses.dataclass(frozen=True)
class LatentDiffusion(GaussianDiffusion):
    """`nets["first_stage"]` is the trained autoencoder, which no step changes.

    A batch holds `latents`, as the first stage encodes, or the images to compute them from.
    """

    first_stage: Any

    def init(self, rng: jax.Array, batch: Batch) -> State:
        state, channels = super().init(rng, batch), self.image[-1]
        frozen = Net.frozen(self.first_stage.init_variables(jax.random.fold_in(rng, 2), batch))
        extra = {"mean": jnp.zeros(channels), "std": jnp.ones(channels)}
        return dataclasses.replace(state, nets=state.nets | {"first_stage": frozen}, extra=extra)

    # The latents -----------------------------------------------------------------------------------------------------

    def preprocess(self, state: State, batch: Batch) -> Batch:
        """{"latents"} of `batch["image"]`: codes [B, h, w], uint16 where they fit, or vectors [B, D]."""
        found = self.first_stage.encode(self._first(state), batch)
        small = self._quantises and self.first_stage.num_codes <= 2**16  # all of them stay on the devices
        return {"latents": found.astype(jnp.uint16) if small else found}

    def preprocess_inputs(self, state: State) -> PyTree:
        """What `preprocess` depends on besides the batch. It names the cache."""
        return state.nets["first_stage"].averaged

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
        maps, first = state.extra["mean"] + state.extra["std"] / SIGMA_DATA * x, self._first(state)
        latents = self.first_stage.quantise(first, maps) if self._quantises else maps[:, 0, 0]
        return self.first_stage.decode(first, latents)

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]:
        return super().train_step(state, self._scaled(state, batch), rng)

    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        return super().eval_step(state, self._scaled(state, batch), rng)

    def timed_loss(self, state: State, batch: Batch, t: Times, rng: jax.Array) -> Times:
        return super().timed_loss(state, self._scaled(state, batch), t, rng)

    def _scaled(self, state: State, batch: Batch) -> Batch:
        maps = self._maps(state, batch)
        return batch | {"scaled": SIGMA_DATA * (maps - state.extra["mean"]) / state.extra["std"]}

    def _maps(self, state: State, batch: Batch) -> Float[Array, "B h w D"]:
        latents = (batch if "latents" in batch else self.preprocess(state, batch))["latents"]
        if not self._quantises:
            return latents[:, None, None]
        return self.first_stage.embed(self._first(state), latents.astype(jnp.int32))

    @property
    def _quantises(self) -> bool:
        return isinstance(self.first_stage, vqvae.VQVAE)

    def _first(self, state: State) -> State:
        return State(state.step, {"net": state.nets["first_stage"]})


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> LatentDiffusion:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    first: Any = FIRST_STAGES[cfg.first_stage_name]
    stage = first.from_config(cfg.first_stage, optimizers)  # its optimizer is never asked
    return LatentDiffusion(**cfg.parts(optimizers["net"]), first_stage=stage)
