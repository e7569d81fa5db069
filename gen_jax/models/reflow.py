"""Reflow (Liu et al. 2023): a flow trained on the pairs of noise and image that another flow joins.

The teacher is a rectified flow: `models/diffusion.py` with the scaling "flow", or another reflow. Its ODE makes images
of noise, and the student learns the velocity of the line between the two. So its paths are straighter, and few steps
of Euler's method suffice.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
from pydantic import Field, model_validator

from gen_jax.core import flow_maps, noise, ops, solvers
from gen_jax.core.gradients import Batch, Optimizer, Terms, require_optimizers
from gen_jax.core.noise import Examples, rows
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.diffusion_base import DiffusionConfig, DiffusionSampling, GaussianDiffusion, Times
from gen_jax.models.second_stage_base import OnInputs
from gen_jax.settings import Few, Positive

STEPS = 32  # of the paths whose straightness is measured


class Config(DiffusionConfig):
    """The section `config.model`: that of the teacher and more. `config.init_from` names the teacher's run.

    With nets = {"teacher": "net", "net": "net"} the student starts from the teacher's parameters.
    """

    scaling: noise.ScalingName = "flow"
    """How alpha and sigma follow from lambda: alpha + sigma = 1, a line from image to noise."""
    pairs: Few = 4
    """Pairs of noise and image for each example, with its label. One of them is drawn each time."""
    pair_steps: Annotated[Positive, Field(le=10_000)] = 32
    """Steps of Heun's method from noise to image, each with two calls of the teacher."""

    @model_validator(mode="after")
    def _is_straight(self) -> "Config":
        if self.scaling != "flow":
            raise ValueError(f"scaling: expected 'flow', got {self.scaling!r}: pairs are joined by straight lines")
        return self


class Sampling(DiffusionSampling):
    """The section `config.sampling`."""

    solver: solvers.OdeSolverName = "euler"
    """A sampler along the ODE, which is all that a reflow knows; `heun` calls the network twice a step."""
    steps: Annotated[Positive, Field(le=10_000)] = 1
    """Steps from noise to data."""


@dataclasses.dataclass(frozen=True)
class Reflow(OnInputs, GaussianDiffusion):
    """`nets["teacher"]` is the flow that made the pairs, `noise` and `made`: a network like the student's."""

    pairs: int
    pair_steps: int

    frozen = "teacher"
    given = "noise"

    def frozen_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.init_variables(rng, batch)

    # The pairs -------------------------------------------------------------------------------------------------------

    def preprocess(self, state: State, batch: Batch) -> Batch:
        """`noise`, the images `made` of it [B, pairs, H, W, C], and the straightness of the first pair's path [B].

        Noise is keyed by the index and by the pixels: examples of one index in two splits have other noise.
        """
        n, label = len(batch["image"]), self.label_of(batch)
        pixels = batch["image"].astype(jnp.uint32).reshape(n, -1)
        keys = ops.row_keys(jax.random.key(0), batch["index"])
        keys = jax.vmap(jax.random.fold_in)(keys, pixels @ jnp.arange(1, pixels.shape[1] + 1, dtype=jnp.uint32))
        eps = ops.normal(keys, (n, self.pairs, *self.image))
        label = None if label is None else jnp.repeat(label, self.pairs, axis=0)
        denoiser = self.denoiser(state.nets["teacher"].averaged, label)
        found = flow_maps.transport(denoiser, self.schedule, eps.reshape(-1, *self.image), self.pair_steps)
        return {
            "noise": eps,
            "made": found.x.reshape(eps.shape),
            "teacher_straightness": found.straightness.reshape(n, -1)[:, 0],
        }

    def pair(self, batch: Batch, rng: jax.Array) -> tuple[Examples, Examples]:
        """One of the pairs of each example."""
        which = jnp.floor(ops.uniform(rng, (len(batch["noise"]),)) * self.pairs).astype(jnp.int32)
        at = rows(which, batch["noise"])
        x, eps = (jnp.take_along_axis(batch[name], at, axis=1)[:, 0] for name in ("made", "noise"))
        return x, eps

    def timed_loss(self, state: State, batch: Batch, t: Times, rng: jax.Array) -> Times:
        return super().timed_loss(state, self.with_inputs(state, batch), t, rng)

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, the weighted squared error; in evaluation also `straightness`, and that of the teacher.

        Both are of paths from the same noise, squared units of a pixel; 0 where one step is as good as many.
        """
        means = super().terms(variables, batch, rng, step=step, train=train).means
        if train:
            return Terms(means)
        denoiser = self.denoiser(variables, self.label_of(batch))
        found = flow_maps.transport(denoiser, self.schedule, batch["noise"][:, 0], STEPS)
        before = batch["teacher_straightness"]
        return Terms(means | {"straightness": Mean.of(found.straightness), "teacher_straightness": Mean.of(before)})

    def shown(self, state: State, x: Float[Array, "n H W C"]) -> UInt8[Array, "n H W C"]:
        return ops.signed_to_uint8(x)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> Reflow:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    return Reflow(**cfg.parts(optimizers["net"]), pairs=cfg.pairs, pair_steps=cfg.pair_steps)
