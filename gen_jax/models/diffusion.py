"""Gaussian diffusion and flow matching on images: a denoiser trained at all noise levels, sampled step by step.

DDPM (Ho et al. 2020), VDM (Kingma et al. 2021), EDM (Karras et al. 2022) and flow matching (Lipman et al. 2023) are
choices of schedule, target, weighting and times.
"""

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
from pydantic import Field, model_validator

from gen_jax.core import bound, denoising, guidance, noise, ops, solvers
from gen_jax.core.gradients import Batch, Optimizer, Terms, require_optimizers
from gen_jax.core.noise import Examples, Schedule, rows
from gen_jax.core.sampling import Classes
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.base import LossModel, Stepped
from gen_jax.models.denoiser_base import DenoiserConfig
from gen_jax.settings import NonNegative, Number, Positive, Settings

LEVELS = 256  # of a pixel
ODE_STEPS = 64  # of the likelihood
Lambda = Annotated[Number, Field(ge=-20, le=20)]  # beyond, float32 cannot tell t from its ends
DYNAMIC = 0.995  # percentile of the dynamic threshold


class Config(DenoiserConfig):
    """The section `config.model`."""

    curve: noise.CurveName = "cosine"
    """The log-SNR lambda as a function of time."""
    scaling: noise.ScalingName = "vp"
    """How alpha and sigma follow from lambda: alpha^2 + sigma^2 = 1, alpha = 1, or alpha + sigma = 1."""
    lambda_max: Lambda = 13.3
    """lambda at time 0, close to the data."""
    lambda_min: Lambda = -13.3
    """lambda at time 1, close to noise."""
    target: denoising.TargetName = "v"
    """What the network predicts."""
    weighting: denoising.WeightingName = "sigmoid"
    """Weight of the squared error of eps in the loss."""
    times: denoising.TimesName = "uniform"
    """Distribution of the times in training."""

    @model_validator(mode="after")
    def _fit_together(self) -> "Config":
        if self.lambda_max <= self.lambda_min:
            raise ValueError(f"lambda_max: expected more than lambda_min = {self.lambda_min:g}")
        if self.weighting in ("elbo", "sigmoid") and self.times != "uniform":
            raise ValueError(f"times: expected 'uniform' beside weighting = {self.weighting!r}, which assumes it")
        return self


class Sampling(Classes):
    """The section `config.sampling`."""

    solver: solvers.SolverName = "dpm_solver"
    """The sampler; `heun` calls the network twice a step."""
    steps: Annotated[Positive, Field(le=10_000)] = 25
    """Steps from noise to data."""
    grid: noise.GridName = "time"
    """What the steps are equally spaced in: time, lambda, or Karras' power of sigma / alpha."""
    guidance: NonNegative = 1.0
    """Scale of classifier-free guidance; 1 = off."""
    guided_from: Number | None = None
    """The smallest lambda at which guidance applies; None = all."""
    guided_to: Number | None = None
    """The largest lambda at which guidance applies; None = all."""
    threshold: Literal["none", "static", "dynamic"] = "static"
    """Limits the estimate of the image at each step: `static` clips it, `dynamic` scales it (Saharia et al. 2022)."""
    temperature: NonNegative = 1.0
    """Scales the noise at the start, and that which `ancestral` adds."""

    def check(self, model: Settings) -> None:
        assert isinstance(model, Config)
        if self.guidance != 1 and not model.class_dropout:
            raise ValueError("guidance: expected 1 for a model without class_dropout")
        if self.guidance != 1 and self.label == "none":
            raise ValueError("guidance: expected 1 beside label = 'none'")
        for name in ("guided_from", "guided_to"):
            if self.guidance == 1 and getattr(self, name) is not None:
                raise ValueError(f"{name}: expected none beside guidance = 1")
        if self.guided_from is not None and self.guided_to is not None and self.guided_from >= self.guided_to:
            raise ValueError(f"guided_to: expected more than guided_from = {self.guided_from:g}")
        if not (self.label == "none" and model.class_dropout):
            super().check(model)

    def guides(self, log_snr: Array) -> Array | bool:
        """Whether guidance applies at this lambda."""
        low = True if self.guided_from is None else self.guided_from <= log_snr
        return low if self.guided_to is None else low & (log_snr <= self.guided_to)

    def labels(self, n: int, num_classes: int) -> Int[Array, " n"] | None:
        return None if self.label == "none" else super().labels(n, num_classes)


@dataclasses.dataclass(frozen=True)
class Diffusion(LossModel, Stepped):
    """`elbo` is the variational bound on log P(image | class), `log_prob` the likelihood by the ODE."""

    schedule: Schedule
    target: str
    weighting: str
    times: str
    image: tuple[int, int, int]
    num_classes: int
    class_dropout: float
    discrete_likelihood: bool = True
    normalised_likelihood: bool = True

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        x = jnp.zeros((1, *self.image))
        return self.network.init(rng, x, jnp.zeros(1), jnp.zeros(1, jnp.int32))

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, the weighted squared error; in evaluation also `elbo` and its parts, nats an image."""
        x = ops.to_signed(batch["image"])
        time_rng, noise_rng, class_rng, drop_rng, bound_rng = ops.split(rng, 5)
        t = denoising.TIMES[self.times](self.schedule, time_rng, len(x))
        log_snr, eps = self.schedule.log_snr(t), ops.normal(noise_rng, x.shape)
        label = self._label(batch["label"] if self.num_classes else None, len(x))
        if train and label is not None:
            label = jnp.where(ops.uniform(class_rng, (len(x),)) < self.class_dropout, self.num_classes, label)
        z = noise.diffuse(self.schedule, x, log_snr, eps)
        y = self._call(variables, z, log_snr, label, {"dropout": drop_rng} if train else None)
        error = (y - denoising.target(self.target, self.schedule, x, eps, log_snr)) ** 2
        weight = denoising.WEIGHTINGS[self.weighting](log_snr, self.schedule.slope(t))
        weight *= denoising.error_ratio(self.target, self.schedule, log_snr)
        loss = {"loss": Mean.of(weight * error.reshape(len(x), -1).mean(1))}
        if train:
            return Terms(loss)
        parts = bound.terms(self.schedule, self._denoiser(variables, label), x, bound_rng, LEVELS)
        return Terms(loss | {name: Mean.of(part) for name, part in parts.items()})

    def log_prob(self, state: State, batch: Batch, rng: jax.Array, num_samples: int) -> Float[Array, " B"]:
        """A lower bound on log P(image | class), nats, in the mean over `num_samples` dequantizations."""
        label = self._label(batch["label"] if self.num_classes else None, len(batch["image"]))
        denoiser, keys = self._denoiser(state.nets["net"].averaged, label), ops.row_keys(rng, batch["index"])
        x, settings = ops.to_signed(batch["image"]), (num_samples, LEVELS, ODE_STEPS)
        return bound.dequantized_log_prob(self.schedule, denoiser, x, keys, *settings)

    # Sampling --------------------------------------------------------------------------------------------------------

    def sample_steps(self, options: Sampling) -> int:
        return options.steps

    def sample_init(self, state: State, rng: jax.Array, n: int, options: Sampling) -> PyTree:
        keys = ops.row_keys(rng, jnp.arange(n))
        walk = solvers.start(self.schedule, self._noise(keys, 0, options))
        label = self._label(options.labels(n, self.num_classes), n)
        return {"walk": walk, "keys": jax.random.key_data(keys), "label": label}

    def sample_step(self, state: State, carry: PyTree, i: Int[Array, ""], options: Sampling) -> PyTree:
        grid = noise.GRIDS[options.grid](self.schedule, options.steps)
        fresh = self._noise(jax.random.wrap_key_data(carry["keys"]), i + 1, options)
        step = solvers.step_of(self.schedule, grid, i, fresh)
        denoiser = self._sampler(state.nets["net"].averaged, carry["label"], options)
        return carry | {"walk": solvers.SOLVERS[options.solver](denoiser, carry["walk"], step)}

    def sample_finish(self, state: State, carry: PyTree, options: Sampling) -> UInt8[Array, "n H W C"]:
        alpha = self.schedule.scales(jnp.float32(self.schedule.lambda_max))[0]
        return ops.signed_to_uint8(carry["walk"].z / alpha)

    def _noise(self, keys: jax.Array, number: Int[Array, ""] | int, options: Sampling) -> Examples:
        """The noise of a step: each sample has its own key, so it does not depend on how many are drawn."""
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
        return options.temperature * ops.normal(keys, (len(keys), *self.image))

    def _sampler(self, variables: PyTree, label: Array | None, options: Sampling) -> solvers.Denoiser:
        """The denoiser with what `options` ask of it."""
        conditional = self._denoiser(variables, label)

        def denoiser(z, log_snr):
            if options.guidance == 1 or label is None:
                found = conditional(z, log_snr)
            else:  # both in one call, row beside row: rows stay on their devices
                both = self._denoiser(variables, guidance.pairs(label, jnp.full_like(label, self.num_classes)))
                halves = guidance.halves(both(guidance.pairs(z, z), log_snr))
                found = guidance.guided(*halves, options.guidance, options.guides(log_snr))
            if options.threshold == "none":
                return found
            percentile = DYNAMIC if options.threshold == "dynamic" else 1.0
            return guidance.thresholded(found, self.schedule, z, log_snr, percentile)

        return denoiser

    def _denoiser(self, variables: PyTree, label: Array | None) -> solvers.Denoiser:
        def denoiser(z, log_snr):
            each = jnp.broadcast_to(log_snr, len(z))
            return denoising.denoised(self.target, self.schedule, z, self._call(variables, z, each, label), each)

        return denoiser

    def _label(self, label: Array | None, n: int) -> Int[Array, " n"] | None:
        """The labels that the network reads: `num_classes` for none; None of a model without classes."""
        if not self.num_classes:
            return None
        return jnp.full(n, self.num_classes) if label is None else label

    def _call(
        self, variables: PyTree, z: Examples, log_snr: Float[Array, " B"], label: Array | None, rngs: dict | None = None
    ) -> Examples:
        """The network on z scaled to a variance of about 1 (Karras et al. 2022, c_in)."""
        alpha, sigma = (rows(scale, z) for scale in self.schedule.scales(log_snr))
        scaled = z / jnp.sqrt((alpha * denoising.SIGMA_DATA) ** 2 + sigma**2)
        y: Any = self.network.apply(variables, scaled, log_snr, label, train=rngs is not None, rngs=rngs or {})
        return y


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> Diffusion:
    """Raises ConfigError if `optimizers` is not one optimizer called `net`."""
    require_optimizers(optimizers, "net")
    schedule = Schedule(cfg.curve, cfg.scaling, cfg.lambda_max, cfg.lambda_min)
    choices = cfg.target, cfg.weighting, cfg.times, cfg.image, cfg.num_classes, cfg.class_dropout
    return Diffusion(cfg.network(), optimizers["net"], schedule, *choices)
