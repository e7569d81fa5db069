"""The second stage of a VQ-VAE: an autoregressive Transformer over the grid of codes, row by row; it draws samples."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import model_validator

from gen_jax import losses
from gen_jax.models import vqvae
from gen_jax.models.base import Batch, LossModel, Optimiser, Terms
from gen_jax.nets.causal import CausalTransformer
from gen_jax.sampling import SampleOptions, sample_categorical
from gen_jax.settings import Count, Fraction, Positive, Settings
from gen_jax.state import Mean, Net, PyTree, State


class Config(Settings):
    """The section `config.model`; `config.init_from` names the run of the first stage.

    first_stage: the section `config.model` of that run.
    width, layers, heads, dropout: of the Transformer.
    num_classes: 0, or the number of labels that it is told.
    """

    first_stage: vqvae.Config = vqvae.Config()
    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    dropout: Fraction = 0.1
    num_classes: Count = 0

    @model_validator(mode="after")
    def _heads_divide(self) -> "Config":
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of heads = {self.heads}")
        return self


class Network(nn.Module):
    """Logits of each code given those before it and the label: the sequence starts with the label's vector."""

    num_codes: int
    num_labels: int  # 1 where there are none
    width: int
    layers: int
    heads: int
    dropout: float

    @nn.compact
    def __call__(
        self, codes: Int[Array, "B N"], label: Int[Array, " B"], *, train: bool = False
    ) -> Float[Array, "B N K"]:
        start = nn.Embed(self.num_labels, self.width, name="label")(label)[:, None]
        seen = nn.Embed(self.num_codes, self.width, name="code")(codes[:, :-1])
        x = jnp.concatenate([start, seen], axis=1)  # [B, N, D]
        x = CausalTransformer(self.layers, self.heads, self.dropout, name="transformer")(x, train=train)
        return nn.Dense(self.num_codes, name="logits")(x)


@dataclasses.dataclass(frozen=True)
class CodePrior(LossModel):
    """`nets["first_stage"]` is the trained VQ-VAE: it has no optimiser, and no step moves it.

    A batch holds `codes` int32 [B, h, w], or the images to compute them from.
    """

    first_stage: vqvae.VQVAE
    num_classes: int

    def init(self, rng: jax.Array, batch: Batch) -> State:
        prior_rng, first_rng = jax.random.split(rng)
        state = super().init(prior_rng, batch)
        variables = self.first_stage.init_variables(first_rng, batch)
        stats = {name: tree for name, tree in variables.items() if name != "params"}
        frozen = Net(variables["params"], opt=(), stats=stats, ema=None)
        return dataclasses.replace(state, nets=state.nets | {"first_stage": frozen})

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        h, w = self.first_stage.grid
        return self.network.init(rng, jnp.zeros((1, h * w), jnp.int32), jnp.zeros(1, jnp.int32))

    def preprocess(self, state: State, batch: Batch) -> Batch:
        """{"codes": int32 [B, h, w]} of `batch["image"]`."""
        return {"codes": self.first_stage.encode(self._first(state), batch)}

    def preprocess_inputs(self, state: State) -> PyTree:
        """What `preprocess` depends on beside the batch: the name of its cache."""
        return state.nets["first_stage"].averaged

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]:
        after, means = super().train_step(state, self._with_codes(state, batch), rng)
        return dataclasses.replace(after, nets=state.nets | after.nets), means

    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        return super().eval_step(state, self._with_codes(state, batch), rng)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """The codes' negative log-likelihood in nats a code, and how often the likeliest is right."""
        codes = batch["codes"].reshape(len(batch["codes"]), -1)  # [B, N]
        label = batch["label"] if self.num_classes else jnp.zeros(len(codes), jnp.int32)
        rngs = {"dropout": rng} if train else {}
        logits: Any = self.network.apply(variables, codes, label, train=train, rngs=rngs)
        weight = jnp.full(len(codes), codes.shape[1], jnp.float32)
        right = (logits.argmax(axis=-1) == codes).sum(axis=1).astype(jnp.float32)
        nats = losses.cross_entropy(logits, codes).sum(axis=1)
        return Terms({"loss": Mean(nats, weight), "accuracy": Mean(right, weight)})

    def sample(self, state: State, rng: jax.Array, n: int, options: SampleOptions) -> Array:
        """uint8 [n, H, W, C]: codes drawn one after the other, then decoded by the first stage."""
        return self.first_stage.decode(self._first(state), self.sample_codes(state, rng, n, options))

    def sample_codes(self, state: State, rng: jax.Array, n: int, options: SampleOptions) -> Array:
        """int32 [n, h, w]."""
        variables = state.nets["net"].averaged
        h, w = self.first_stage.grid
        label = jnp.arange(n) % max(self.num_classes, 1)
        if self.num_classes and options.label is not None:
            label = jnp.full(n, options.label)

        def step(codes, xs):
            i, key = xs
            logits: Any = self.network.apply(variables, codes, label)  # [n, N, K]
            return codes.at[:, i].set(sample_categorical(key, logits[:, i], options.temperature)), None

        # what lies after position i has no influence on its logits, so the row can start as zeros
        start = jnp.zeros((n, h * w), jnp.int32)
        codes, _ = jax.lax.scan(step, start, (jnp.arange(h * w), jax.random.split(rng, h * w)))
        return codes.reshape(n, h, w)

    def _first(self, state: State) -> State:
        return State(state.step, {"net": state.nets["first_stage"]})

    def _with_codes(self, state: State, batch: Batch) -> Batch:
        return batch if "codes" in batch else batch | self.preprocess(state, batch)


def from_config(cfg: Config, txs: dict[str, Optimiser]) -> CodePrior:
    labels = max(cfg.num_classes, 1)
    return CodePrior(
        network=Network(cfg.first_stage.codes, labels, cfg.width, cfg.layers, cfg.heads, cfg.dropout),
        optimiser=txs["net"],
        first_stage=vqvae.from_config(cfg.first_stage, txs),  # its optimiser is never asked
        num_classes=cfg.num_classes,
    )
