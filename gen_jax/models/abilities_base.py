"""More abilities of models, asked for as those in `models.base`."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int, UInt8

from gen_jax.core.gradients import Batch
from gen_jax.core.info import Info
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.base import Stepped, walker

Images = UInt8[Array, "B H W C"]
Mask = Float[Array, "B H W 1"]


@runtime_checkable
class Inpaints(Stepped, Protocol):
    """Draws what is missing of images; `inpainter` calls it."""

    def inpaint_init(self, state: State, rng: jax.Array, batch: Batch, mask: Mask, options: Any) -> PyTree:
        """The carry before the first of the steps of a `Stepped` model."""
        ...


def inpainter(
    model: Inpaints, options: Any, progress: Callable[[int, int], None] = lambda done, steps: None
) -> Callable[[State, jax.Array, Batch, Mask], Images]:
    """(state, rng, batch, mask) -> uint8 images, compiled; pixels of `batch["image"]` where the mask is 1 are kept.

    Args:
      options, progress: as `models.base.sampler` takes them. The classes are those of the batch.
    """
    init = jax.jit(lambda state, rng, batch, mask: model.inpaint_init(state, rng, batch, mask, options))
    walk = walker(model, options, progress)
    return lambda state, rng, batch, mask: walk(state, init(state, rng, batch, mask))


@runtime_checkable
class DecodesNoise(Protocol):
    """Standard normal noise [B, *noise_shape] to images, which nothing else is drawn for."""

    @property
    def noise_shape(self) -> tuple[int, ...]: ...
    def decode_noise(
        self, state: State, noise: Float[Array, "B ..."], label: Int[Array, " B"] | None = None
    ) -> Images: ...


@runtime_checkable
class InvertsNoise(DecodesNoise, Protocol):
    """Also images to the noise that they are made of."""

    def encode_noise(self, state: State, batch: Batch) -> Float[Array, "B ..."]: ...


@runtime_checkable
class Measures(Protocol):
    """A model whose first state holds means over the training data, such as the scale of its inputs.

    They are measured once, before the first step, after `config.init_from` has been read.
    """

    def measure(self, state: State, batch: Batch) -> dict[str, Mean]:
        """Rows [B, ...] of what is averaged; padding weighs 0."""
        ...

    def measured(self, state: State, found: dict[str, Array]) -> State:
        """The state with the averages [...]."""
        ...


@runtime_checkable
class ShowsSteps(Protocol):
    """A `Stepped` model with a picture of its carry: name -> uint8 images [n, H, W, C], after i of its steps."""

    def sample_shown(self, state: State, carry: PyTree, i: Int[Array, ""], options: Any) -> dict[str, Any]: ...


@runtime_checkable
class HasTimedLoss(Protocol):
    """`loss` of each example [B] at its time [B] from 0, the data, to 1, noise. rng: one key, folded with `index`."""

    def timed_loss(self, state: State, batch: Batch, t: Float[Array, " B"], rng: jax.Array) -> Float[Array, " B"]: ...


@runtime_checkable
class DeclaresData(Protocol):
    """A `Config` that determines what an example is, so that a step can be planned without data; None = it does not."""

    def example(self) -> Info | None: ...


@runtime_checkable
class HasBoundParts(Protocol):
    """`bound_parts` names the metrics whose sum is -elbo, in nats an example."""

    @property
    def bound_parts(self) -> tuple[str, ...]: ...
