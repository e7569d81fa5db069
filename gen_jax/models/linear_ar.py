"""AR(k): each value is a linear function of the last k values, plus Gaussian noise (Yule 1927)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from pydantic import model_validator

from gen_jax.core import losses, ops
from gen_jax.core.generate import generate
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.info import Info
from gen_jax.core.sampling import Noise, Text
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.settings import Period, Positive


class Config(ModelConfig):
    """The section `config.model`."""

    order: Positive = 1
    """k, the number of earlier values that a value depends on."""
    data_dim: Positive
    """Values in a series."""
    burn_in: Period = 100
    """Values that `sample` draws and drops first, so that its start from zeros is forgotten."""

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.order >= self.data_dim:
            raise ValueError(f"order: expected less than data_dim = {self.data_dim}, got {self.order}")
        return self

    def check_data(self, info: Info) -> None:
        info.require_kind("vector")
        info.require_equal("data_dim", self.data_dim, info.shape[0])


class Sampling(Noise):
    """The section `config.sampling`."""


class Network(nn.Module):
    """Mean and log-scale of the value after each window of k values."""

    order: int

    @nn.compact
    def __call__(self, windows: Float[Array, "*b K"]) -> Float[Array, "*b 2"]:
        """`windows` from the oldest value to the newest."""
        coefficients = self.param("coefficients", nn.initializers.zeros, (self.order,))  # a_1 is the newest value's
        constant = self.param("constant", nn.initializers.zeros, ())
        log_scale = self.param("log_scale", nn.initializers.zeros, ())
        mean = constant + windows @ coefficients[::-1]
        return jnp.stack([mean, jnp.broadcast_to(log_scale, mean.shape)], axis=-1)


def draw_value(keys: Key[Array, " B"], outputs: Float[Array, "B 2"], options: Text) -> Float[Array, " B"]:
    """One value a row. The temperature scales the noise."""
    return outputs[:, 0] + options.temperature * jnp.exp(outputs[:, 1]) * ops.normal(keys, (len(outputs),))


@dataclasses.dataclass(frozen=True)
class LinearAR(LossModel):
    """Maximum likelihood given the first k values of each series. Least squares is its closed form.

    Terms over the values after the first k: `loss`, minus the log-density in nats a value, and `squared_error`.
    """

    data_dim: int
    burn_in: int

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.network.init(rng, jnp.zeros((1, self.network.order)))

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        values = batch["vector"][:, self.network.order :]
        outputs = self._outputs(variables, batch["vector"])
        weight = jnp.full(len(values), values.shape[1], jnp.float32)
        nats = -losses.gaussian_log_prob(outputs[..., 0], outputs[..., 1], values, event=1)
        error = ((outputs[..., 0] - values) ** 2).sum(axis=1)
        return Terms({"loss": Mean(nats, weight), "squared_error": Mean(error, weight)})

    def log_prob(self, state: State, batch: Batch, rng: jax.Array, num_samples: int) -> Float[Array, " B"]:
        """log p(the values after the first k | the first k) in nats, exact, so `num_samples` is not used."""
        means = self.terms(state.nets["net"].averaged, batch, rng, step=state.step, train=False).means
        return -means["loss"].total

    capacity = None  # of a cache, which holds k values however long the series

    def prefill(self, state: State, tokens: Float[Array, "B P"], size: int, condition: Batch) -> Float[Array, "B K"]:
        """The last k of `tokens`, after zeros if there are fewer."""
        k = self.network.order
        return jnp.pad(tokens, ((0, 0), (k, 0)))[:, -k:]

    def decode_token(
        self, state: State, cache: Float[Array, "B K"], token: Float[Array, " B"]
    ) -> tuple[Float[Array, "B 2"], Float[Array, "B K"]]:
        """Mean and log-scale of the value after `token`."""
        cache = jnp.concatenate([cache[:, 1:], token[:, None]], axis=1)
        return self._apply(state.nets["net"].averaged, cache), cache

    def sample(self, state: State, rng: jax.Array, n: int, options: Sampling) -> Float[Array, "n D"]:
        """Series that start `burn_in` values after zeros."""
        text = Text(temperature=options.temperature, length=self.burn_in + self.data_dim)
        values, _ = generate(self, state, rng, jnp.zeros((n, 1)), [1] * n, text, draw=draw_value)
        return values[:, self.burn_in :]

    def _outputs(self, variables: PyTree, series: Float[Array, "B D"]) -> Float[Array, "B V 2"]:
        """Mean and log-scale of the values after the first k."""
        k, size = self.network.order, series.shape[1]
        places = jnp.arange(size - k)[:, None] + jnp.arange(k)
        return self._apply(variables, series[:, places])

    def _apply(self, variables: PyTree, windows: jax.Array) -> Any:
        return self.network.apply(variables, windows)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> LinearAR:
    return LinearAR(Network(cfg.order), optimizers["net"], cfg.data_dim, cfg.burn_in)
