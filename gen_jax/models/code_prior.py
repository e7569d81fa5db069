"""The second stage of a VQ-VAE: an autoregressive Transformer over the grid of codes, in raster order."""

import dataclasses

import jax
from jaxtyping import Array, Int

from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.info import Info
from gen_jax.core.state import Mean, Net, PyTree, State
from gen_jax.models import pixel_transformer, vqvae
from gen_jax.models.base import LossModel
from gen_jax.models.pixel_transformer import PixelTransformer
from gen_jax.settings import Fraction


class Config(pixel_transformer.GridConfig):
    """The section `config.model`; `config.init_from` names the run of the first stage."""

    first_stage: vqvae.Config = vqvae.Config()
    """The section `config.model` of that run."""
    dropout: Fraction = 0.1
    """Dropout rate of the embeddings, the attention weights and the residual branches."""

    def check_data(self, info: Info) -> None:
        info.require_images("first_stage.image", self.first_stage.image)
        self.check_condition(info)


class Sampling(pixel_transformer.Sampling):
    """The section `config.sampling`: how codes are drawn."""


@dataclasses.dataclass(frozen=True)
class CodePrior(LossModel):
    """`nets["first_stage"]` is the trained VQ-VAE. It has no optimizer, so no step changes it.

    A batch holds `codes` int32 [B, h, w], or the images to compute them from.
    """

    prior: PixelTransformer
    first_stage: vqvae.VQVAE

    def init(self, rng: jax.Array, batch: Batch) -> State:
        prior_rng, first_rng = jax.random.split(rng)
        state = super().init(prior_rng, batch)
        frozen = Net.frozen(self.first_stage.init_variables(first_rng, batch))
        return dataclasses.replace(state, nets=state.nets | {"first_stage": frozen})

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.prior.init_variables(rng, batch)

    def preprocess(self, state: State, batch: Batch) -> Batch:
        """{"codes": int32 [B, h, w]} of `batch["image"]`."""
        return {"codes": self.first_stage.encode(self._first(state), batch)}

    def preprocess_inputs(self, state: State) -> PyTree:
        """What `preprocess` depends on besides the batch. It names the cache."""
        return state.nets["first_stage"].averaged

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]:
        return super().train_step(state, self._with_codes(state, batch), rng)

    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        return super().eval_step(state, self._with_codes(state, batch), rng)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, nats a code, `accuracy` of the likeliest code, and `log_prob`, nats a grid of codes."""
        grid = batch | {"values": batch["codes"][..., None]}
        return self.prior.terms(variables, grid, rng, step=step, train=train)

    def sample(self, state: State, rng: jax.Array, n: int, options: Sampling) -> Array:
        """uint8 [n, H, W, C]: codes drawn one by one, then decoded by the first stage."""
        return self.first_stage.decode(self._first(state), self.sample_codes(state, rng, n, options))

    def sample_codes(self, state: State, rng: jax.Array, n: int, options: Sampling) -> Int[Array, "n h w"]:
        return self.prior.sample_values(state, rng, n, options)[..., 0]

    def _first(self, state: State) -> State:
        return State(state.step, {"net": state.nets["first_stage"]})

    def _with_codes(self, state: State, batch: Batch) -> Batch:
        return batch if "codes" in batch else batch | self.preprocess(state, batch)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> CodePrior:
    first_stage = vqvae.from_config(cfg.first_stage, optimizers)  # its optimizer is never asked
    parts = cfg.model_dump(exclude={"first_stage"})
    prior = pixel_transformer.build(optimizers["net"], (*first_stage.grid, 1), cfg.first_stage.codes, **parts)
    return CodePrior(prior.network, optimizers["net"], prior, first_stage)
