"""The second stage of a VQ-VAE: an autoregressive Transformer over the grid of codes, in raster order."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.state import PyTree, State
from gen_jax.models import pixel_transformer, vqvae
from gen_jax.models.pixel_transformer import PixelTransformer
from gen_jax.models.second_stage_base import SecondStage, SecondStageConfig
from gen_jax.settings import Fraction


class Config(SecondStageConfig, pixel_transformer.GridConfig):
    """The section `config.model`; `config.init_from` names the run of the first stage."""

    first_stage: vqvae.Config = vqvae.Config()
    """The section `config.model` of that run."""
    dropout: Fraction = 0.1
    """Dropout rate of the embeddings, the attention weights and the residual branches."""


class Sampling(pixel_transformer.Sampling):
    """The section `config.sampling`: how codes are drawn."""


@dataclasses.dataclass(frozen=True)
class CodePrior(SecondStage):
    """Autoregressive: `prior` draws a code after those above and to the left of it."""

    prior: PixelTransformer

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.prior.init_variables(rng, batch)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, nats a code, `accuracy` of the likeliest code, and `log_prob`, nats a grid of codes."""
        grid = batch | {"values": batch["latents"].astype(jnp.int32)[..., None]}
        return self.prior.terms(variables, grid, rng, step=step, train=train)

    def sample(self, state: State, rng: jax.Array, n: int, options: Sampling) -> Array:
        """uint8 [n, H, W, C]: codes drawn one by one, then decoded by the first stage."""
        return self.first_stage.decode(self.first(state), self.sample_codes(state, rng, n, options))

    def sample_codes(self, state: State, rng: jax.Array, n: int, options: Sampling) -> Int[Array, "n h w"]:
        return self.prior.sample_values(state, rng, n, options)[..., 0]


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> CodePrior:
    first_stage = vqvae.from_config(cfg.first_stage, optimizers)  # its optimizer is never asked
    parts = cfg.model_dump(exclude={"first_stage"})
    prior = pixel_transformer.build(optimizers["net"], (*first_stage.grid, 1), cfg.first_stage.codes, **parts)
    return CodePrior(prior.network, optimizers["net"], prior, first_stage=first_stage)
