"""What models share that learn from what a frozen network gives: a trained first stage, or a teacher."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gen_jax.core.gradients import Batch
from gen_jax.core.info import Info
from gen_jax.core.state import Mean, Net, PyTree, State
from gen_jax.models.base import LossModel, ModelConfig, Quantises


class SecondStageConfig(ModelConfig):
    """The base of a config with a `first_stage`, beside one with `check_condition`, `num_classes` and `vocab`.

    `config.init_from` names the run of the first stage, with nets = {"first_stage": "net"}.
    """

    def example(self) -> Info | None:
        """What the data are; None where the config does not say."""
        own: Any = self
        return None if own.vocab else Info("image", own.first_stage.image, own.num_classes)

    def check_data(self, info: Info) -> None:
        own: Any = self
        info.require_images("first_stage.image", own.first_stage.image)
        own.check_condition(info)


@dataclasses.dataclass(frozen=True)
class OnInputs(LossModel):
    """`nets[frozen]` is trained and has no optimizer, so no step changes it. `preprocess` runs it.

    A batch holds `given`, which `preprocess` gives, or the examples to compute it from.
    """

    frozen: ClassVar[str]
    given: ClassVar[str]

    def frozen_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        """The first variables of `nets[frozen]`, before `config.init_from` is read."""
        raise NotImplementedError(f"{type(self).__name__} has no frozen network")

    def preprocess(self, state: State, batch: Batch) -> Batch:
        raise NotImplementedError(f"{type(self).__name__} computes no inputs")

    def init(self, rng: jax.Array, batch: Batch) -> State:
        state = super().init(rng, batch)
        frozen = Net.frozen(self.frozen_variables(jax.random.fold_in(rng, 2), batch))
        return dataclasses.replace(state, nets=state.nets | {self.frozen: frozen})

    def preprocess_inputs(self, state: State) -> PyTree:
        """What `preprocess` depends on besides the batch. It names the cache."""
        return state.nets[self.frozen].averaged

    def with_inputs(self, state: State, batch: Batch) -> Batch:
        """The batch as `terms` reads it."""
        return batch if self.given in batch else batch | self.preprocess(state, batch)

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]:
        return super().train_step(state, self.with_inputs(state, batch), rng)

    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        return super().eval_step(state, self.with_inputs(state, batch), rng)


@dataclasses.dataclass(frozen=True)
class SecondStage(OnInputs):
    """A model of `latents`, as the trained autoencoder `first_stage` encodes images."""

    first_stage: Any = dataclasses.field(kw_only=True)

    frozen = "first_stage"
    given = "latents"

    def frozen_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.first_stage.init_variables(rng, batch)

    def preprocess(self, state: State, batch: Batch) -> Batch:
        """{"latents"} of `batch["image"]`: codes [B, h, w], uint16 where they fit, or vectors [B, D]."""
        found = self.first_stage.encode(self.first(state), batch)
        small = self.quantised and self.first_stage.num_codes <= 2**16  # all of them stay on the devices
        return {"latents": found.astype(jnp.uint16) if small else found}

    def first(self, state: State) -> State:
        """The state of the first stage."""
        return State(state.step, {"net": state.nets["first_stage"]})

    @property
    def quantised(self) -> bool:
        """Whether the latents are codes."""
        return isinstance(self.first_stage, Quantises)
