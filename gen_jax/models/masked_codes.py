"""The second stage of a VQ-VAE: masked diffusion over the grid of codes (MaskGIT, Chang et al. 2022).

Codes are hidden at random, as values of pixels in `models.masked_diffusion`, and drawn in any order, several at once.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8
from pydantic import model_validator

from gen_jax.core.gradients import Batch, Optimizer, Terms, require_optimizers
from gen_jax.core.masking import MASK, Tokens
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models import masked_diffusion, vqvae
from gen_jax.models.masked_diffusion import Masked, MaskedConfig
from gen_jax.models.second_stage_base import SecondStage, SecondStageConfig


class Config(SecondStageConfig, MaskedConfig):
    """The section `config.model`; `config.init_from` names the run of the first stage.

    `image` is (rows, columns, 1) of the grid of codes.
    """

    first_stage: vqvae.Config
    """The section `config.model` of that run."""

    @model_validator(mode="after")
    def _fits_the_first_stage(self) -> "Config":
        if self.image != (shape := (*self.first_stage.grid, 1)):
            raise ValueError(f"image: expected {shape}, the codes of first_stage, got {self.image}")
        return self


class Sampling(masked_diffusion.Sampling):
    """The section `config.sampling`: how codes are drawn."""


@dataclasses.dataclass(frozen=True)
class MaskedCodes(SecondStage, Masked):
    """`log_prob` is the bound on log P(codes | class), in evaluation and by more draws."""

    def read(self, batch: Batch, rng: Key[Array, ""] | None) -> tuple[Tokens, Bool[Array, "B T"]]:
        tokens = batch["latents"].astype(jnp.int32).reshape(len(batch["latents"]), -1)
        return tokens, jnp.ones(tokens.shape, bool)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, the bound on -log P in nats a code; in evaluation also `log_prob`, nats a grid of codes."""
        means = super().terms(variables, batch, rng, step=step, train=train).means
        return Terms(means if train else means | {"log_prob": Mean.of(-means["loss"].total)})

    def timed_loss(self, state: State, batch: Batch, t: Float[Array, " B"], rng: jax.Array) -> Float[Array, " B"]:
        return super().timed_loss(state, self.with_inputs(state, batch), t, rng)

    def log_prob(self, state: State, batch: Batch, rng: jax.Array, num_samples: int) -> Float[Array, " B"]:
        return super().log_prob(state, self.with_inputs(state, batch), rng, num_samples)

    def sample_finish(self, state: State, carry: PyTree, options: Sampling) -> UInt8[Array, "n H W C"]:
        """Decoded by the first stage."""
        return self.first_stage.decode(self.first(state), self._codes(carry))

    def sample_shown(self, state: State, carry: PyTree, i: Int[Array, ""], options: Sampling) -> dict[str, Any]:
        """Decoded, halfway from black to white where codes are hidden."""
        codes = self._codes(carry)
        images = self.first_stage.decode(self.first(state), jnp.maximum(codes, 0))
        side = images.shape[1] // codes.shape[1]
        hidden = jnp.repeat(jnp.repeat(codes == MASK, side, axis=1), side, axis=2)[..., None]
        return {"decoded": jnp.where(hidden, jnp.uint8(128), images)}

    def _codes(self, carry: PyTree) -> Int[Array, "n h w"]:
        return carry["tokens"].reshape(-1, *self.image[:2])


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> MaskedCodes:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    first_stage = vqvae.from_config(cfg.first_stage, optimizers)  # its optimizer is never asked
    parts = {name: getattr(cfg, name) for name in ("image", "num_classes", "vocab", "label_dropout", "rate")}
    codes = cfg.first_stage.codes
    return MaskedCodes(cfg.network(), optimizers["net"], **parts, levels=codes, first_stage=first_stage)
