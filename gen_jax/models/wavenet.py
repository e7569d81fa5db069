"""WaveNet (van den Oord et al. 2016): sound sample by sample, as mu-law codes or 16-bit amplitudes."""

import dataclasses
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int16, Key
from pydantic import Field

from gen_jax.core import losses, ops
from gen_jax.core.filters import tempered
from gen_jax.core.generate import generate, rows
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.info import Info
from gen_jax.core.sampling import Classes, Prompted, Text, Tokens
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.nets.wavenet import WaveNet, receptive_field
from gen_jax.settings import Count, Few, Fraction, Positive, Settings

LEVELS = 65_536  # of 16-bit sound
LOG_SCALE = -3.0  # of a component that the head says nothing of


class Config(ModelConfig):
    """The section `config.model`."""

    output: Literal["mu_law", "logistic_mixture"] = "mu_law"
    """A distribution over 256 mu-law codes, or a discretised mixture of logistics over the 65,536 amplitudes."""
    mixtures: Positive = 10
    """Components of the mixture."""
    width: Positive = 32
    """Channels of the residual path and the gated units."""
    skip: Positive = 128
    """Channels of the skip path and the head."""
    kernel: Positive = 2
    """Taps of a convolution."""
    stacks: Few = 2
    """Times that the dilations are repeated."""
    depth: Annotated[Few, Field(le=30)] = 9
    """Layers of a stack, with dilations 1, 2, 4, ..., 2 ** (depth - 1)."""
    num_classes: Count = 0
    """0, or the number of classes that the model is conditioned on."""
    embed: Positive = 16
    """Width of the class embedding."""
    silence: Fraction = 1.0
    """Weight of a padding sample in training, so that the model learns how a sound ends.

    Evaluation never counts padding.
    """

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(2**i for i in range(self.depth)) * self.stacks

    @property
    def fused(self) -> dict[str, int]:
        """Kernels that hold the matrices of a unit's signal and of its gate side by side."""
        return {r".*layers_\d+/(conv/dense|condition)/kernel": 2}

    def check_data(self, info: Info) -> None:
        info.require_kind("audio")
        info.require_classes("num_classes", self.num_classes)


class Sampling(Tokens, Classes, Prompted):
    """The section `config.sampling`; `prompts` are tokens of this model: mu-law codes, or amplitudes."""

    def check(self, model: Settings) -> None:
        super().check(model)
        assert isinstance(model, Config)
        for name in Tokens.model_fields if model.output == "logistic_mixture" else ():
            default = Tokens.model_fields[name].default
            if name != "temperature" and getattr(self, name) != default:
                raise ValueError(f"{name}: expected {default}: the amplitudes of a mixture are no tokens")
        low, high = (0, 255) if model.output == "mu_law" else (-32768, 32767)
        for prompt in self.prompts:
            if isinstance(prompt, str) or any(not low <= token <= high for token in prompt):
                raise ValueError(f"prompts: expected integers from {low} to {high}, got {prompt!r:.60}")


class Network(nn.Module):
    """Earlier samples (codes or amplitudes) and a class to the parameters of the distribution of each next sample."""

    wavenet: WaveNet
    output: str
    num_classes: int
    embed: int

    def setup(self):
        if self.output == "mu_law":
            self.codes = nn.Embed(256, self.wavenet.width)
        if self.num_classes:
            self.classes = nn.Embed(self.num_classes, self.embed)

    def __call__(self, tokens: Int[Array, "B T"], label: Int[Array, " B"] | None) -> Float[Array, "B T V"]:
        return self.wavenet(self._vectors(tokens), self._conditioned(label))

    def queues(self, tokens: Int[Array, "B P"], label: Int[Array, " B"] | None) -> PyTree:
        return self.wavenet.queues(self._vectors(tokens), self._conditioned(label))

    def step(
        self, queues: PyTree, token: Int[Array, " B"], label: Int[Array, " B"] | None, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B V"], PyTree]:
        return self.wavenet.step(queues, self._vectors(token), self._conditioned(label), position)

    def _vectors(self, tokens):
        if self.output == "mu_law":
            level = tokens[..., None].astype(jnp.float32) / 127.5 - 1  # tells neighbours that they are
            return jnp.concatenate([self.codes(tokens), level], axis=-1)
        return ops.compand(tokens.astype(jnp.float32) / 32768)[..., None]  # quiet sounds are not near 0

    def _conditioned(self, label):
        return self.classes(label) if self.num_classes else None


def mixture(outputs: Float[Array, "*batch V"]) -> tuple[Array, Array, Array]:
    """Logits, means and log-scales [..., K] of the components, on the grid from -1 to 1."""
    logits, means, log_scales = jnp.split(outputs, 3, axis=-1)
    return logits, means, log_scales + LOG_SCALE


def to_grid(amplitudes: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """-32768 ... 32767 to -1 ... 1."""
    return (amplitudes.astype(jnp.float32) + 32768) / 32767.5 - 1


def draw_amplitude(keys: Key[Array, " B"], outputs: Float[Array, "B V"], options: Text) -> Int[Array, " B"]:
    """One amplitude a row from the mixture. The temperature divides the logits and scales the components.

    At temperature 0 it is the mean of the likeliest component.
    """
    logits, means, log_scales = mixture(outputs)

    def one(key, logits, means, log_scales):
        which, where = jax.random.split(key)
        if options.temperature == 0:
            return means[logits.argmax()]
        k = jax.random.categorical(which, tempered(logits, options.temperature))
        noise = jax.random.logistic(where) * options.temperature
        floor = losses.min_log_scale(LEVELS)
        return means[k] + jnp.exp(jnp.maximum(log_scales[k], floor)) * noise

    x = jax.vmap(one)(keys, logits, means, log_scales)
    return (jnp.round((jnp.clip(x, -1, 1) + 1) * 32767.5) - 32768).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class WaveNetModel(LossModel):
    """Next-sample prediction.

    The tokens are int32 mu-law codes, or amplitudes if the output is a mixture. One sample of silence comes first.
    """

    output: str = "mu_law"
    num_classes: int = 0
    silence: float = 1.0

    @property
    def start(self) -> int:
        """The token of silence."""
        return 128 if self.output == "mu_law" else 0

    @property
    def capacity(self) -> None:
        return None

    @property
    def receptive_field(self) -> int:
        """Samples before t that the prediction of sample t depends on."""
        net = self.network.wavenet
        return receptive_field(net.kernel, net.dilations)

    def tokens(self, batch: Batch) -> Int[Array, "B S"]:
        """Silence, then the T samples of the batch: S = T + 1."""
        audio = batch["audio"]
        tokens = ops.mu_law_encode(audio) if self.output == "mu_law" else audio.astype(jnp.int32)
        return jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=self.start)

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        return self.network.init(rng, self.tokens(batch)[:1, :1], self._label(batch, 1))

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """The negative log-likelihood of the next samples, nats a sample.

        Evaluation counts the samples whose `mask` is 1. Training counts padding too, weighted by `silence`.
        """
        tokens = self.tokens(batch)
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        outputs: Any = self.network.apply(variables, inputs, self._label(batch))
        counts = batch["mask"]
        if train:
            counts = counts + self.silence * (1 - counts)
        return Terms({"loss": Mean((self.nats(outputs, targets) * counts).sum(axis=1), counts.sum(axis=1))})

    def nats(self, outputs: Float[Array, "B T V"], targets: Int[Array, "B T"]) -> Float[Array, "B T"]:
        """-log p of each target, over all 256 codes or 65,536 amplitudes."""
        if self.output == "mu_law":
            return losses.cross_entropy(outputs, targets)
        return -losses.logistic_mixture_log_prob(*mixture(outputs), to_grid(targets), event=0, levels=LEVELS)

    def logits(self, state: State, batch: Batch) -> Float[Array, "B T V"]:
        """Logits of the codes, or the parameters of `mixture`, of every sample of the batch's sound."""
        inputs = self.tokens(batch)[:, :-1]
        return self._apply(state, inputs, self._label(batch))

    def prefill(self, state: State, tokens: Int[Array, "B P"], size: int, condition: Batch) -> PyTree:
        """Queues of each layer's last inputs, of constant size. `condition`: the label [B] of a conditional model."""
        label = self._label(condition)
        queues = self._apply(state, tokens, label, method="queues")
        labels = {} if label is None else {"label": label}
        return {"queues": queues, "position": jnp.int32(tokens.shape[1]), **labels}

    def decode_token(self, state: State, cache: PyTree, token: Int[Array, " B"]) -> tuple[Float[Array, "B V"], PyTree]:
        """The next sample's logits and the cache, in O(layers), however long the past is."""
        label, position = cache.get("label"), cache["position"]
        outputs, queues = self._apply(state, cache["queues"], token, label, position, method="step")
        return outputs, cache | {"queues": queues, "position": position + 1}

    def sample(self, state: State, rng: jax.Array, n: int, options: Sampling) -> Int16[Array, "n T"]:
        """Sounds of `options.length` samples; `options.prompts` are tokens of this model."""
        label = options.labels(n, self.num_classes)
        condition = {} if label is None else {"label": label}
        text = Text(**options.drawing(), length=options.length)
        draw = None if self.output == "mu_law" else draw_amplitude
        tokens, _ = generate(self, state, rng, *rows(options.prompts, n, self.start), text, condition, draw)
        return ops.mu_law_decode(tokens) if self.output == "mu_law" else tokens.astype(jnp.int16)

    def _apply(self, state: State, *args: Any, method: str = "__call__") -> Any:
        return self.network.apply(state.nets["net"].averaged, *args, method=method)

    def _label(self, batch: Batch, n: int | None = None) -> Int[Array, " B"] | None:
        return batch["label"][:n] if self.num_classes else None


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> WaveNetModel:
    outputs = 256 if cfg.output == "mu_law" else 3 * cfg.mixtures
    wavenet = WaveNet(cfg.width, cfg.skip, outputs, cfg.kernel, cfg.dilations)
    network = Network(wavenet, cfg.output, cfg.num_classes, cfg.embed)
    return WaveNetModel(network, optimizers["net"], cfg.output, cfg.num_classes, cfg.silence)
