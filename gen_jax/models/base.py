"""The protocol that every model keeps, and the step that single-network families share.

A model is a frozen dataclass: networks, optimizers, hyperparameters; no arrays, no mutation. The training loop
calls `init`, `train_step` and `eval_step` and knows nothing else about it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.core import ops
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.info import Info
from gen_jax.core.sampling import Sampling
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.settings import Settings

DISPATCHES = 20  # of a sampler's steps, where they are a loop on the device


@runtime_checkable
class Model(Protocol):
    """What the training loop calls. `rng` is the run's root key; a step folds `state.step` into it."""

    def init(self, rng: jax.Array, batch: Batch) -> State: ...
    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]: ...
    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]: ...


class ModelConfig(Settings):
    """The base of each model's `Config`, the section `config.model`."""

    def check_data(self, info: Info) -> None:
        """Refuses data that the model cannot learn from: kind and shape of an example, classes, tokens.

        Called before anything is compiled, so that no other check depends on the names of a model's fields.

        Raises:
          ConfigError: names the key and what was expected (`Info.require_kind` and the like).
        """
        raise ConfigError(f"config.model_name: expected Config.check_data(info) in {type(self).__module__}, found none")


@dataclasses.dataclass(frozen=True)
class LossModel:
    """A model of one network that minimises one loss. Subclasses give `terms`, and `sample` where they can."""

    network: nn.Module
    optimizer: Optimizer

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """The loss and its parts, a row an example.

        Args:
          variables: what `network.apply` takes; `variables["extra"]` is `State.extra` where the model has one. What
            follows from a step is set after it: `train_step` calls the inherited one and replaces `extra`.
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
            return self.terms({"params": params, **stats, **state.collections}, batch, rng, step=state.step, train=True)

        net, terms = self.optimizer.step(state.nets["net"], loss_fn, batch, jax.random.fold_in(rng, state.step))
        state = dataclasses.replace(state, step=state.step + 1, carry=terms.carry)
        return dataclasses.replace(state, nets=state.nets | {"net": net}), terms.means  # other networks are frozen

    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        keys, variables = ops.row_keys(rng, batch["index"]), state.nets["net"].averaged | state.collections
        terms = self.terms(variables, batch, keys, step=state.step, train=False)
        return {name: mean.where(batch["valid"]) for name, mean in terms.means.items()}


@runtime_checkable
class Samples(Protocol):
    """Draws; `options` is the `Sampling` of the model's file, completed by `Sampling.prepared`.

    uint8 images [n, H, W, C], float32 vectors [n, D], int16 sound [n, T], or int32 tokens [n, T] and their lengths [n].
    """

    def sample(self, state: State, rng: jax.Array, n: int, options: Sampling) -> Any: ...


@runtime_checkable
class Stepped(Samples, Protocol):
    """Samples in many calls of a network: inherit it. No program grows with the steps, and `sampler` shows progress.

    A carry is a tree of arrays [n, ...] or []; it keeps its shapes and types.
    """

    def sample_steps(self, options: Any) -> int:
        """How many steps there are."""
        ...

    def sample_init(self, state: State, rng: jax.Array, n: int, options: Any) -> PyTree:
        """The carry before the first step: noise, keys."""
        ...

    def sample_step(self, state: State, carry: PyTree, i: jax.Array, options: Any) -> PyTree:
        """The carry after step i, [] int32, counted from 0."""
        ...

    def sample_finish(self, state: State, carry: PyTree, options: Any) -> Any:
        """The samples, as `Samples` says."""
        ...

    def sample(self, state: State, rng: jax.Array, n: int, options: Any) -> Any:
        """All steps as one loop."""
        carry = self.sample_init(state, rng, n, options)
        carry = _steps(self, options, state, carry, jnp.int32(0), jnp.int32(self.sample_steps(options)))
        return self.sample_finish(state, carry, options)


def _steps(model: Stepped, options: Any, state: State, carry: PyTree, first: jax.Array, end: jax.Array) -> PyTree:
    return jax.lax.fori_loop(first, end, lambda i, carry: model.sample_step(state, carry, i, options), carry)


def sampler(
    model: Any, n: int, options: Any, progress: Callable[[int, int], None] = lambda done, steps: None
) -> Callable[[State, jax.Array], Any]:
    """(state, rng) -> n samples, compiled.

    The steps of a `Stepped` model are a loop on the device, a share of them in a dispatch; on a CPU, whose loops are
    slow around convolutions, each is a dispatch. Both compile one step.

    Args:
      progress: called with the steps that are done and all of them, before each dispatch of a `Stepped` model.
    """
    if not isinstance(model, Stepped):
        return jax.jit(functools.partial(model.sample, n=n, options=options))
    init, walk = jax.jit(functools.partial(model.sample_init, n=n, options=options)), walker(model, options, progress)
    return lambda state, rng: walk(state, init(state, rng))


def walker(model: Stepped, options: Any, progress: Callable[[int, int], None]) -> Callable[[State, PyTree], Any]:
    """(state, first carry, which is donated) -> samples, as `sampler`."""
    steps = model.sample_steps(options)
    one = jax.jit(functools.partial(model.sample_step, options=options), donate_argnums=1)
    share = jax.jit(functools.partial(_steps, model, options), donate_argnums=1)
    finish = jax.jit(functools.partial(model.sample_finish, options=options))

    def walk(state: State, carry: PyTree) -> Any:
        alone = ops.platform() == "cpu" and ops.convolves(jax.make_jaxpr(one)(state, carry, jnp.int32(0)).jaxpr)
        size = 1 if alone else -(-steps // DISPATCHES)
        for first in range(0, steps, size):
            progress(first, steps)
            end = min(first + size, steps)
            carry = one(state, carry, jnp.int32(first)) if alone else share(state, carry, first, end)
            jax.block_until_ready(carry)  # else all steps are dispatched at once, and progress says nothing
        return finish(state, carry)

    return walk


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
    """An estimate of log p(x), or a lower bound on it, [B] in nats, by `num_samples` draws keyed by the row."""

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
    """Token by token: what `generate` and `beam` are built on.

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

    def translate(self, state: State, rng: jax.Array, condition: Batch, options: Sampling) -> Any: ...


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
