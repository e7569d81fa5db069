"""The protocol that every model keeps, and the step that single-network families share.

A model is a frozen dataclass: networks, optimizers, hyperparameters; no arrays, no mutation. The training loop
calls `init`, `train_step` and `eval_step` and knows nothing else about it.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.core import ops
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.state import Mean, PyTree, State


@runtime_checkable
class Model(Protocol):
    """What the training loop calls. `rng` is the run's root key; a step folds `state.step` into it."""

    def init(self, rng: jax.Array, batch: Batch) -> State: ...
    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]: ...
    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]: ...


@dataclasses.dataclass(frozen=True)
class LossModel:
    """A model of one network that minimises one loss. Subclasses give `terms`, and `sample` where they can."""

    network: nn.Module
    optimizer: Optimizer

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """The loss and its parts, a row an example.

        Args:
          variables: what `network.apply` takes.
          batch: arrays [B, ...]; `batch["carry"]` holds the rows of the carry where the model keeps one.
          rng: one key in training, one key a row [B] in evaluation (`ops.normal` takes both).
          step: [] int32, for schedules of the loss.
          train: dropout on, statistics updated.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no terms")

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        """What `Module.init` returns for this batch."""
        raise NotImplementedError(f"{type(self).__name__} gives no init_variables")

    def init_carry(self, batch: Batch) -> PyTree:
        """The carry before the first batch, rows [B, ...]; None for models without one."""
        return None

    def init(self, rng: jax.Array, batch: Batch) -> State:
        net = self.optimizer.init(self.init_variables(rng, batch))
        return State(jnp.zeros((), jnp.int32), {"net": net}, self.init_carry(batch))

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]:
        if state.carry is not None:
            batch = batch | {"carry": state.carry}

        def loss_fn(params, stats, batch, rng):
            return self.terms({"params": params, **stats}, batch, rng, step=state.step, train=True)

        rng = jax.random.fold_in(rng, state.step)
        net, terms = self.optimizer.step(state.nets["net"], loss_fn, batch, rng)
        return State(state.step + 1, {"net": net}, terms.carry), terms.means

    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        keys = ops.row_keys(rng, batch["index"])
        terms = self.terms(state.nets["net"].averaged, batch, keys, step=state.step, train=False)
        return {name: mean.where(batch["valid"]) for name, mean in terms.means.items()}


@runtime_checkable
class Samples(Protocol):
    """Draws; options: SampleOptions, of which `sample` reads the fields that the model's tuple `reads` names.

    `gen-jax sample` refuses the flags of other fields, and all of a model without `reads`.
    uint8 images [n, H, W, C], float32 vectors [n, D], int16 sound [n, T], or int32 tokens [n, T] and their lengths [n].
    """

    def sample(self, state: State, rng: jax.Array, n: int, options: Any) -> Any: ...


@runtime_checkable
class Encodes(Protocol):
    """Images to latents: `vectors` [B, D] of posterior means, or integer codes [B, h, w]."""

    def encode(self, state: State, batch: Batch) -> Any: ...


@runtime_checkable
class Decodes(Protocol):
    """Latents [B, D] or codes [B, h, w] to uint8 images [B, H, W, C].

    A model with `num_classes` > 0 is conditioned on labels: `decode(state, latents, label)`, label int [B].
    """

    def decode(self, state: State, latents: Any) -> Any: ...


@runtime_checkable
class HasLogProb(Protocol):
    """An estimate of log p(x) [B] in nats from `num_samples` importance samples, keyed by the row."""

    def log_prob(self, state: State, batch: Batch, rng: jax.Array, num_samples: int) -> Any: ...


@runtime_checkable
class Reconstructs(Protocol):
    """Images through the model and back: uint8 [B, H, W, C], the mean where the output is a distribution."""

    def reconstruct(self, state: State, batch: Batch, rng: jax.Array) -> Any: ...


@runtime_checkable
class Quantises(Protocol):
    """`encode` gives integer codes below `num_codes`, not vectors."""

    @property
    def num_codes(self) -> int: ...


@runtime_checkable
class HasLikelihood(Protocol):
    """What the model's `elbo` and `log_prob` are.

    discrete_likelihood: of discrete pixels (uint8 or binary), where bits/dim mean something; False for densities of
      scaled pixels.
    normalised_likelihood: False for a cross-entropy to grey levels: no likelihood, so none may be reported.
    """

    @property
    def discrete_likelihood(self) -> bool: ...
    @property
    def normalised_likelihood(self) -> bool: ...


@runtime_checkable
class Carries(Protocol):
    """A recurrent model: evaluation can continue from where the row's last window stopped."""

    def init_carry(self, batch: Batch) -> PyTree: ...
    def eval_carried(
        self, state: State, batch: Batch, carry: PyTree, rng: jax.Array
    ) -> tuple[dict[str, Mean], PyTree]: ...


@runtime_checkable
class Autoregressive(Protocol):
    """Token by token: what `sampling` and `beam` are built on.

    A cache is a tree of [B, ...], which beam search reorders, and of []: all rows stand at the same position.
    `condition` holds what the model is conditioned on beside the tokens, [B, ...]: {} where that is nothing.
    """

    @property
    def capacity(self) -> int | None:
        """The most positions that a cache can hold; None = no end."""
        ...

    def prefill(self, state: State, tokens: Any, size: int, condition: Batch) -> PyTree:
        """A cache with room for `size` positions, the first P of which hold `tokens` [B, P]; P may be 0."""
        ...

    def decode_token(self, state: State, cache: PyTree, token: Any) -> tuple[Any, PyTree]:
        """Puts `token` [B] at the next position; logits [B, V] of the token after it, and the cache."""
        ...

    def logits(self, state: State, batch: Batch) -> Any:
        """The same of a whole window at once, [B, T, V], without a cache."""
        ...


@runtime_checkable
class Translates(Protocol):
    """Texts to texts: condition (`source`, `source_segment` [B, S]) -> tokens [B, options.length] and lengths [B]."""

    def translate(self, state: State, rng: jax.Array, condition: Batch, options: Any) -> Any: ...


@runtime_checkable
class TranslatesImages(Protocol):
    """uint8 images [B, H, W, C] of one domain to uint8 images of the other; direction: "a2b" or "b2a"."""

    def translate_images(self, state: State, images: Any, direction: str) -> Any: ...


@runtime_checkable
class Attends(Protocol):
    """Attention weights [B, L, N, T, S] of L layers and N heads: each of the T inputs over what it attends to.

    That is the inputs themselves, or for batches with a `source` [B, S] the source.
    """

    def attention(self, state: State, batch: Batch) -> Any: ...


@runtime_checkable
class Preprocesses(Protocol):
    """A model trained on a fixed function of the data (codes of a first stage): computed once, cached by hash."""

    def preprocess(self, state: State, batch: Batch) -> Batch: ...
    def preprocess_inputs(self, state: State) -> PyTree: ...
