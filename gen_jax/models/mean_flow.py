"""Flow maps on images: a network of average velocities, which samples in one evaluation.

MeanFlow (Geng et al. 2025) and shortcut models (Frans et al. 2025) are the choices of `objective`.
"""

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8
from pydantic import Field, model_validator

from gen_jax.core import denoising, flow_maps, guidance, ops
from gen_jax.core.flow_maps import Times
from gen_jax.core.gradients import Batch, Optimizer, Terms, require_optimizers
from gen_jax.core.noise import Examples, rows
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.base import Stepped
from gen_jax.models.denoiser_base import CaptionedConfig, Denoiser, LabelSampling
from gen_jax.settings import Fraction, NonNegative, Positive

SPAN = 10.0  # of a time from 0 to 1, as the network's level: its derivative in time must stay tame


class Config(CaptionedConfig):
    """The section `config.model`."""

    objective: flow_maps.ObjectiveName = "mean_flow"
    """What defines an average velocity: the derivative along the path, or that one step equals two half ones."""
    times: denoising.TimesName = "logit_normal"
    """Distribution of the times in training."""
    instant: Fraction = 0.75
    """Share of the training examples that learn the velocity at one time instead of an average."""
    adaptive: NonNegative = 1.0
    """Power of the adaptive weight of an example, which divides by its squared error; 0 = equal weights."""
    guidance: NonNegative = 1.0
    """Scale of the classifier-free guidance that the samples are trained to follow; 1 = off."""

    @model_validator(mode="after")
    def _guides(self) -> "Config":
        if self.guidance != 1 and not self.label_dropout:
            raise ValueError("guidance: expected 1 for a model without class_dropout or caption_dropout")
        return self


class Sampling(LabelSampling):
    """The section `config.sampling`."""

    steps: Annotated[Positive, Field(le=10_000)] = 1
    """Network evaluations, at equal distances in time."""
    temperature: NonNegative = 1.0
    """Scales the noise at the start."""


@dataclasses.dataclass(frozen=True)
class MeanFlow(Denoiser, Stepped):
    """The network takes z, two levels (of the time t, and of t - r) and a label."""

    objective: str
    times: str
    instant: float
    adaptive: float
    guidance: float

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.network.init(rng, jnp.zeros((1, *self.image)), jnp.zeros((1, 2)), self.label_or_none(None, 1))

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, weighted, and `error`, the squared error of the average velocity, a pixel."""
        x = ops.to_signed(batch["image"])
        time_rng, noise_rng, class_rng, drop_rng, interval_rng = ops.split(rng, 5)
        t, r = flow_maps.intervals(self.objective, self.times, self.instant, time_rng, interval_rng, len(x))
        eps = ops.normal(noise_rng, x.shape)
        label = self.label_in_training(batch, class_rng) if train else self.label_of(batch)
        z = flow_maps.path(x, eps, t)
        v = self._guided(variables, z, eps - x, t, label)
        u = functools.partial(self._call, variables, label, {"dropout": drop_rng} if train else None)
        found = flow_maps.OBJECTIVES[self.objective].regression(u, z, v, t, r)
        error = ((found.u - found.target) ** 2).reshape(len(x), -1).mean(1)
        loss = flow_maps.adaptive_weight(error, self.adaptive) * error
        return Terms({"loss": Mean.of(loss), "error": Mean.of(error)})

    def _guided(self, variables: PyTree, z: Examples, v: Examples, t: Times, label: Array | None) -> Examples:
        """The velocity of the guided path for examples with a label (Geng et al. 2025, eq. 19)."""
        if self.guidance == 1 or label is None:
            return v
        none = jnp.full_like(label, self.num_classes)
        without = jax.lax.stop_gradient(self._call(variables, none, None, z, t, t))
        dropped = (label == none).reshape(len(label), -1).all(1)
        return jnp.where(rows(dropped, z), v, guidance.guided(v, without, self.guidance))

    # Sampling --------------------------------------------------------------------------------------------------------

    def sample_steps(self, options: Sampling) -> int:
        return options.steps

    def sample_init(self, state: State, rng: jax.Array, n: int, options: Sampling) -> PyTree:
        keys = ops.row_keys(rng, jnp.arange(n))  # a sample does not depend on how many are drawn
        z = options.temperature * ops.normal(keys, (n, *self.image))
        return {"z": z, "label": self.label_asked(options, n)}

    def sample_step(self, state: State, carry: PyTree, i: Int[Array, ""], options: Sampling) -> PyTree:
        u = functools.partial(self._call, state.nets["net"].averaged, carry["label"], None)
        t, r = (jnp.full(len(carry["z"]), 1 - step / options.steps) for step in (i, i + 1))
        return carry | {"z": flow_maps.jump(u, carry["z"], t, r)}

    def sample_finish(self, state: State, carry: PyTree, options: Sampling) -> UInt8[Array, "n H W C"]:
        return ops.signed_to_uint8(carry["z"])

    def _call(
        self, variables: PyTree, label: Array | None, rngs: dict | None, z: Examples, t: Times, r: Times
    ) -> Examples:
        levels = SPAN * jnp.stack([t - 0.5, t - r], axis=1)
        u: Any = self.network.apply(variables, z, levels, label, train=rngs is not None, rngs=rngs or {})
        return u


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> MeanFlow:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    same = "objective", "times", "instant", "adaptive", "guidance", "image", "num_classes", "vocab", "label_dropout"
    return MeanFlow(cfg.network(), optimizers["net"], **{name: getattr(cfg, name) for name in same})
