"""Gaussian diffusion and flow matching on images: a denoiser trained at all noise levels, sampled step by step.

DDPM (Ho et al. 2020), VDM (Kingma et al. 2021), EDM (Karras et al. 2022) and flow matching (Lipman et al. 2023) are
choices of schedule, target, weighting and times.
"""

import dataclasses
import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
from pydantic import Field, model_validator

from gen_jax.core import bound, denoising, guidance, noise, ops, solvers
from gen_jax.core.denoising import Denoised
from gen_jax.core.gradients import Batch, Optimizer, Terms, require_optimizers
from gen_jax.core.info import Info
from gen_jax.core.noise import Examples, Schedule, rows
from gen_jax.core.sampling import Classes, Noise
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.base import LossModel, ModelConfig, Stepped
from gen_jax.nets.dit import DiT
from gen_jax.nets.unet import UNet
from gen_jax.settings import Count, Few, Fraction, NonNegative, Number, Positive, Settings, Widths

LEVELS = 256  # of a pixel
ODE_STEPS = 64  # of the likelihood
DIT = ("patch", "layers", "width", "scan_layers", "remat")  # fields that one network alone reads
UNET = ("widths", "blocks", "attention")


class Config(ModelConfig):
    """The section `config.model`."""

    image: tuple[Positive, Positive, Positive]
    """(height, width, channels) of the data."""
    net: Literal["dit", "unet"] = "dit"
    """`dit` is a Transformer over patches, `unet` has residual blocks on maps of falling, then rising sides."""
    patch: Positive = 2
    """Side of a patch of `dit`."""
    layers: Few = 6
    """Blocks of `dit`."""
    width: Positive = 128
    """Width of the residual stream of `dit`."""
    scan_layers: bool = False
    """Scans one compiled block over the layers of `dit`."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass of `dit` recomputes instead of keeping."""
    widths: Widths = (64, 128, 128)
    """Channels of the stages of `unet`. Each but the last halves the sides."""
    blocks: Few = 1
    """Residual blocks of a stage of `unet` on the way down; one more on the way up."""
    attention: tuple[Positive, ...] = ()
    """Heights of the maps of `unet` that attend."""
    heads: Positive = 4
    """Heads of each attention."""
    dropout: Fraction = 0.0
    """Dropout rate of the residual branches."""
    curve: noise.CurveName = "cosine"
    """The log-SNR lambda as a function of time."""
    scaling: noise.ScalingName = "vp"
    """How alpha and sigma follow from lambda: alpha^2 + sigma^2 = 1, alpha = 1, or alpha + sigma = 1."""
    lambda_max: Number = 13.3
    """lambda at time 0, close to the data."""
    lambda_min: Number = -13.3
    """lambda at time 1, close to noise."""
    target: denoising.TargetName = "v"
    """What the network predicts."""
    weighting: denoising.WeightingName = "sigmoid"
    """Weight of the squared error of eps in the loss."""
    times: denoising.TimesName = "uniform"
    """Distribution of the times in training."""
    num_classes: Count = 0
    """0, or the number of classes that the model is conditioned on."""
    class_dropout: Fraction = 0.0
    """Share of the training examples without their class. Guidance and `label=none` need it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""

    @model_validator(mode="after")
    def _fit_together(self) -> "Config":
        for name in UNET if self.net == "dit" else DIT:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: expected no value beside net = {self.net!r}, which does not read it")
        field, part = ("patch", self.patch) if self.net == "dit" else ("widths", 2 ** (len(self.widths) - 1))
        if not part or self.image[0] % part or self.image[1] % part:
            raise ValueError(f"{field}: expected image sides divisible by {part}, got {self.image[0]}, {self.image[1]}")
        attending = [self.width] if self.net == "dit" else self._attending()
        if any(width % self.heads for width in attending):
            raise ValueError(f"heads: expected a divisor of the channels that attend, {attending}")
        if self.lambda_max <= self.lambda_min:
            raise ValueError(f"lambda_max: expected more than lambda_min = {self.lambda_min:g}")
        if self.class_dropout and not self.num_classes:
            raise ValueError("class_dropout: expected 0 for a model without classes")
        return self

    def _attending(self) -> list[int]:
        """Channels of the maps of `unet` that attend."""
        return [width for i, width in enumerate(self.widths) if self.image[0] >> i in self.attention]

    @property
    def fused(self) -> dict[str, int]:
        """As in `models.transformer`."""
        return {".*/qkv/kernel": 3 * self.heads}

    def check_data(self, info: Info) -> None:
        info.require_images("image", self.image)
        info.require_classes("num_classes", self.num_classes)


class Sampling(Noise, Classes):
    """The section `config.sampling`."""

    solver: solvers.SolverName = "dpm_solver"
    """The sampler; `heun` calls the network twice a step."""
    steps: Annotated[Positive, Field(le=10_000)] = 25
    """Steps from noise to data."""
    grid: noise.GridName = "time"
    """What the steps are equally spaced in: time, lambda, or Karras' power of sigma / alpha."""
    guidance: NonNegative = 1.0
    """Scale of classifier-free guidance; 1 = off."""
    guided_from: Number = -1e9
    """The smallest lambda at which guidance applies."""
    guided_to: Number = 1e9
    """The largest lambda at which guidance applies."""
    clip: bool = True
    """Clips the estimate of the image to the range of pixels at each step."""

    def check(self, model: Settings) -> None:
        assert isinstance(model, Config)
        if not model.class_dropout and self.guidance != 1:
            raise ValueError("guidance: expected 1 for a model without class_dropout")
        if not (self.label == "none" and model.class_dropout):
            super().check(model)

    def labels(self, n: int, num_classes: int) -> Int[Array, " n"] | None:
        return None if self.label == "none" else super().labels(n, num_classes)


@dataclasses.dataclass(frozen=True)
class Diffusion(LossModel, Stepped):
    """`elbo` is the variational bound on log P(image), `log_prob` the ODE's likelihood of dequantized images."""

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
        """A lower bound on log P(image), nats: the mean of the ODE's log-density over `num_samples` dequantizations.

        Song et al. 2021, section 4.3 and appendix D.2. Each has one vector of random signs for the trace.
        """
        image = batch["image"]
        label = self._label(batch["label"] if self.num_classes else None, len(image))
        denoiser = self._denoiser(state.nets["net"].averaged, label)

        def one(i):
            level_rng, sign_rng = ops.split(ops.row_keys(rng, batch["index"] * num_samples + i), 2)
            x = (image + ops.uniform(level_rng, image.shape)) / (LEVELS / 2) - 1
            probes = jnp.sign(ops.uniform(sign_rng, image.shape) - 0.5)[None]
            return bound.ode_log_prob(self.schedule, denoiser, x, probes, ODE_STEPS)

        density = jax.lax.map(one, jnp.arange(num_samples)).mean(0)
        return density - math.prod(self.image) * math.log(LEVELS / 2)

    # Sampling --------------------------------------------------------------------------------------------------------

    def sample_steps(self, options: Sampling) -> int:
        return options.steps

    def sample_init(self, state: State, rng: jax.Array, n: int, options: Sampling) -> PyTree:
        keys = ops.row_keys(rng, jnp.arange(n))
        normal = options.temperature * ops.normal(keys, (n, *self.image))
        walk = solvers.start(self.schedule, normal)
        label = self._label(options.labels(n, self.num_classes), n)
        return {"walk": walk, "keys": jax.random.key_data(keys), "label": label}

    def sample_step(self, state: State, carry: PyTree, i: Int[Array, ""], options: Sampling) -> PyTree:
        walk, keys = carry["walk"], jax.random.wrap_key_data(carry["keys"])
        fresh = options.temperature * ops.normal(
            jax.vmap(lambda key: jax.random.fold_in(key, i + 1))(keys), walk.z.shape
        )
        grid = noise.GRIDS[options.grid](self.schedule, options.steps)
        step = solvers.Step(self.schedule, grid[jnp.maximum(i - 1, 0)], grid[i], grid[i + 1], fresh)
        denoiser = self._sampler(state.nets["net"].averaged, carry["label"], options)
        return carry | {"walk": solvers.SOLVERS[options.solver](denoiser, walk, step)}

    def sample_finish(self, state: State, carry: PyTree, options: Sampling) -> UInt8[Array, "n H W C"]:
        return ops.signed_to_uint8(carry["walk"].z)

    def _sampler(self, variables: PyTree, label: Array | None, options: Sampling) -> solvers.Denoiser:
        """The denoiser with what `options` ask of it."""
        conditional = self._denoiser(variables, label)

        def denoiser(z, log_snr):
            if options.guidance == 1 or label is None:
                found = conditional(z, log_snr)
            else:  # both in one call
                both = self._denoiser(variables, jnp.concatenate([label, jnp.full_like(label, self.num_classes)]))
                x, eps = (jnp.split(part, 2) for part in both(jnp.concatenate([z, z]), log_snr))
                found, other = Denoised(x[0], eps[0]), Denoised(x[1], eps[1])
                inside = (options.guided_from <= log_snr) & (log_snr <= options.guided_to)
                found = guidance.guided(found, other, options.guidance, inside)
            return guidance.thresholded(found, self.schedule, z, log_snr) if options.clip else found

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
    fields = DIT if cfg.net == "dit" else UNET
    part: dict[str, Any] = cfg.model_dump(include={*fields, "heads", "num_classes", "dropout", "dtype"})
    network = DiT(**part) if cfg.net == "dit" else UNet(**part)
    schedule = Schedule(cfg.curve, cfg.scaling, cfg.lambda_max, cfg.lambda_min)
    choices = cfg.target, cfg.weighting, cfg.times, cfg.image, cfg.num_classes, cfg.class_dropout
    return Diffusion(network, optimizers["net"], schedule, *choices)
