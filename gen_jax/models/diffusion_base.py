"""What Gaussian diffusions of pixels and of latents share: schedule, loss, guidance, and samplers step by step."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field, model_validator

from gen_jax.core import denoising, guidance, noise, ops, solvers
from gen_jax.core.denoising import Denoised
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.noise import Examples, Schedule, rows
from gen_jax.core.state import Mean, Net, PyTree, State
from gen_jax.models.base import Stepped
from gen_jax.models.denoiser_base import CaptionedConfig, Denoiser, LabelSampling
from gen_jax.settings import NonNegative, Number, Positive, Settings

Times = Float[Array, " B"]
Lambda = Annotated[Number, Field(ge=-20, le=20)]  # beyond, float32 cannot tell t from its ends


class DiffusionConfig(CaptionedConfig):
    """Fields of `config.model` that say what the network denoises, and how it is trained."""

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
    guide: "DiffusionConfig | None" = None
    """The section `config.model` of a weaker run, whose estimate guidance leads away from (Karras et al. 2024).

    `config.init_from` names that run, with nets = {"guide": "net"}. None: guidance leads away from no class.
    """

    @model_validator(mode="after")
    def _schedule_fits(self) -> "DiffusionConfig":
        if self.lambda_max <= self.lambda_min:
            raise ValueError(f"lambda_max: expected more than lambda_min = {self.lambda_min:g}")
        if self.weighting in ("elbo", "sigmoid") and self.times != "uniform":
            raise ValueError(f"times: expected 'uniform' beside weighting = {self.weighting!r}, which assumes it")
        for name in ("image", "num_classes", "vocab", "scaling") if self.guide else ():
            if getattr(self.guide, name) != (own := getattr(self, name)):
                raise ValueError(f"guide.{name}: expected {own!r}, as of the model that it guides")
        if self.guide and self.guide.guide:
            raise ValueError("guide.guide: expected none")
        return self

    def parts(self, optimizer: Optimizer) -> dict[str, Any]:
        """The fields of `GaussianDiffusion`."""
        schedule = Schedule(self.curve, self.scaling, self.lambda_max, self.lambda_min)
        guide = GaussianDiffusion(**self.guide.parts(optimizer)) if self.guide else None  # its optimizer is never asked
        parts = {"network": self.network(), "optimizer": optimizer, "schedule": schedule, "guide": guide}
        same = "target", "weighting", "times", "image", "num_classes", "vocab", "label_dropout"
        return parts | {name: getattr(self, name) for name in same}


class DiffusionSampling(LabelSampling):
    """Fields of `config.sampling`: the solver and the guidance."""

    solver: solvers.SolverName = "dpm_solver"
    """The sampler; `heun` calls the network twice a step."""
    steps: Annotated[Positive, Field(le=10_000)] = 25
    """Steps from noise to data."""
    grid: noise.GridName = "time"
    """What the steps are equally spaced in: time, lambda, or Karras' power of sigma / alpha."""
    guidance: NonNegative = 1.0
    """Scale of guidance, by the estimate without a class or by that of `config.model.guide`; 1 = off."""
    guided_from: Number | None = None
    """The smallest lambda at which guidance applies; None = all."""
    guided_to: Number | None = None
    """The largest lambda at which guidance applies; None = all."""
    temperature: NonNegative = 1.0
    """Scales the noise at the start, and that which `ancestral` adds."""

    def check(self, model: Settings) -> None:
        assert isinstance(model, DiffusionConfig)
        if self.guidance != 1 and not model.guide and not model.label_dropout:
            raise ValueError("guidance: expected 1 for a model without class_dropout or a guide, or caption_dropout")
        if self.guidance != 1 and not model.guide:
            self.require_label("guidance: expected 1")
        for name in ("guided_from", "guided_to"):
            if self.guidance == 1 and getattr(self, name) is not None:
                raise ValueError(f"{name}: expected none beside guidance = 1")
        if self.guided_from is not None and self.guided_to is not None and self.guided_from >= self.guided_to:
            raise ValueError(f"guided_to: expected more than guided_from = {self.guided_from:g}")
        super().check(model)

    def guides(self, log_snr: Array) -> Array | bool:
        """Whether guidance applies at this lambda."""
        low = True if self.guided_from is None else self.guided_from <= log_snr
        return low if self.guided_to is None else low & (log_snr <= self.guided_to)

    def limited(self, found: Denoised, schedule: Schedule, z: Examples, log_snr: Float[Array, ""]) -> Denoised:
        """The estimate within the range of the data, where that is asked for."""
        return found


@dataclasses.dataclass(frozen=True)
class GaussianDiffusion(Denoiser, Stepped):
    """Denoises maps [H, W, C] of mean 0 and a standard deviation of about 0.5. Subclasses give `examples`, `shown`."""

    schedule: Schedule
    target: str
    weighting: str
    times: str
    guide: "GaussianDiffusion | None"

    def examples(self, batch: Batch) -> Float[Array, "B H W C"]:
        """The clean maps of a batch."""
        raise NotImplementedError(f"{type(self).__name__} gives no examples")

    def pair(self, batch: Batch, rng: jax.Array) -> tuple[Examples, Examples]:
        """The clean maps of a batch and the noise that is added to them. rng: one key, or one a row."""
        x = self.examples(batch)
        return x, ops.normal(rng, x.shape)

    def shown(self, state: State, x: Float[Array, "n H W C"]) -> Any:
        """Clean maps as samples, as `Samples` says."""
        raise NotImplementedError(f"{type(self).__name__} shows no maps")

    def init(self, rng: jax.Array, batch: Batch) -> State:
        state = super().init(rng, batch)
        if not self.guide:
            return state
        guide = Net.frozen(self.guide.init_variables(jax.random.fold_in(rng, 1), batch))
        return dataclasses.replace(state, nets=state.nets | {"guide": guide})

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        x = jnp.zeros((1, *self.image))
        return self.network.init(rng, x, jnp.zeros(1), self.label_or_none(None, 1))

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """`loss`, the weighted squared error."""
        time_rng, noise_rng, class_rng, drop_rng = ops.split(rng, 4)
        x, eps = self.pair(batch, noise_rng)
        t = denoising.TIMES[self.times](self.schedule, time_rng, len(x))
        label = self.label_in_training(batch, class_rng) if train else self.label_of(batch)
        loss = self.loss_at(variables, t, x, eps, label, {"dropout": drop_rng} if train else None)
        return Terms({"loss": Mean.of(loss)})

    def loss_at(
        self, variables: PyTree, t: Times, x: Examples, eps: Examples, label: Array | None, rngs: dict | None
    ) -> Float[Array, " B"]:
        """The weighted squared error of each row at its time."""
        return self.error(variables, self.schedule.log_snr(t), self.schedule.slope(t), x, eps, label, rngs)

    def error(
        self,
        variables: PyTree,
        log_snr: Times,
        slope: Times,
        x: Examples,
        eps: Examples,
        label: Array | None,
        rngs: dict | None,
    ) -> Float[Array, " B"]:
        """The weighted squared error at a lambda and d lambda / dt for each row."""
        y = self.call(variables, noise.diffuse(self.schedule, x, log_snr, eps), log_snr, label, rngs)
        error = (y - denoising.target(self.target, self.schedule, x, eps, log_snr)) ** 2
        weight = denoising.WEIGHTINGS[self.weighting](log_snr, slope)
        weight *= denoising.error_ratio(self.target, self.schedule, log_snr)
        return weight * error.reshape(len(x), -1).mean(1)

    def timed_loss(self, state: State, batch: Batch, t: Times, rng: jax.Array) -> Times:
        """`loss` at given times, without dropout."""
        x, eps = self.pair(batch, ops.row_keys(rng, batch["index"]))
        return self.loss_at(state.nets["net"].averaged, t, x, eps, self.label_of(batch), None)

    def schedule_of(self, variables: PyTree) -> Schedule:
        """The schedule that samples and likelihoods read."""
        return self.schedule

    # Sampling --------------------------------------------------------------------------------------------------------

    def sample_steps(self, options: DiffusionSampling) -> int:
        return options.steps

    def sample_init(self, state: State, rng: jax.Array, n: int, options: DiffusionSampling) -> PyTree:
        keys = ops.row_keys(rng, jnp.arange(n))
        walk = solvers.start(self.schedule_of(state.nets["net"].averaged), self._noise(keys, 0, options))
        return {"walk": walk, "keys": jax.random.key_data(keys), "label": self.label_asked(options, n)}

    def sample_step(self, state: State, carry: PyTree, i: Int[Array, ""], options: DiffusionSampling) -> PyTree:
        schedule = self.schedule_of(state.nets["net"].averaged)
        grid = noise.GRIDS[options.grid](schedule, options.steps)
        fresh = self._noise(jax.random.wrap_key_data(carry["keys"]), i + 1, options)
        step = solvers.step_of(schedule, grid, i, fresh)
        denoiser = self.sampled(state, carry, options)
        return carry | {"walk": solvers.SOLVERS[options.solver](denoiser, carry["walk"], step)}

    def sample_finish(self, state: State, carry: PyTree, options: DiffusionSampling) -> Any:
        return self.shown(state, self.clean(state.nets["net"].averaged, carry["walk"].z))

    def sample_shown(
        self, state: State, carry: PyTree, i: Int[Array, ""], options: DiffusionSampling
    ) -> dict[str, Any]:
        """z scaled to a variance of about 1, and the estimate of x."""
        schedule = self.schedule_of(state.nets["net"].averaged)
        alpha, sigma = schedule.scales(noise.GRIDS[options.grid](schedule, options.steps)[i])
        z, x = carry["walk"]
        return {"z": self.shown(state, z / jnp.sqrt(alpha**2 + sigma**2)), "x": self.shown(state, x)}

    def clean(self, variables: PyTree, z: Examples) -> Examples:
        """x of z at lambda_max, where there is hardly any noise."""
        schedule = self.schedule_of(variables)
        return z / schedule.scales(jnp.float32(schedule.lambda_max))[0]

    def _noise(self, keys: jax.Array, number: Int[Array, ""] | int, options: DiffusionSampling) -> Examples:
        """The noise of a step: each sample has its own key, so it does not depend on how many are drawn."""
        keys = ops.fold_in(keys, number)
        return options.temperature * ops.normal(keys, (len(keys), *self.image))

    def sampled(self, state: State, carry: PyTree, options: DiffusionSampling) -> solvers.Denoiser:
        """The denoiser of a sampler, with what `options` ask of it."""
        variables, label = state.nets["net"].averaged, carry["label"]
        found = own = self.denoiser(variables, label)
        if options.guidance != 1 and self.guide:
            weaker = self.guide.denoiser(state.nets["guide"].averaged, label)
            found = _guided(lambda z, log_snr: (own(z, log_snr), weaker(z, log_snr)), options)
        elif options.guidance != 1 and label is not None:
            # both in one call, row beside row: rows stay on their devices
            both = self.denoiser(variables, guidance.pairs(label, jnp.full_like(label, self.num_classes)))
            found = _guided(lambda z, log_snr: guidance.halves(both(guidance.pairs(z, z), log_snr)), options)
        return lambda z, log_snr: options.limited(found(z, log_snr), self.schedule, z, log_snr)

    # The network -----------------------------------------------------------------------------------------------------

    def denoiser(self, variables: PyTree, label: Array | None) -> solvers.Denoiser:
        """The network as solvers see it, for rows of these labels."""

        def denoiser(z, log_snr):
            each = jnp.broadcast_to(log_snr, len(z))
            return denoising.denoised(self.target, self.schedule, z, self.call(variables, z, each, label), each)

        return denoiser

    def call(
        self, variables: PyTree, z: Examples, log_snr: Float[Array, " B"], label: Array | None, rngs: dict | None = None
    ) -> Examples:
        """The network on z scaled to a variance of about 1 (Karras et al. 2022, c_in). With `rngs` it drops out."""
        alpha, sigma = (rows(scale, z) for scale in self.schedule.scales(log_snr))
        scaled = z / jnp.sqrt((alpha * denoising.SIGMA_DATA) ** 2 + sigma**2)
        y: Any = self.network.apply(variables, scaled, log_snr, label, train=rngs is not None, rngs=rngs or {})
        return y


def _guided(estimates: Callable[..., tuple[Denoised, Denoised]], options: DiffusionSampling) -> solvers.Denoiser:
    """The first of two estimates, led away from the second."""
    return lambda z, log_snr: guidance.guided(*estimates(z, log_snr), options.guidance, options.guides(log_snr))
