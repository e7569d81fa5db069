"""CycleGAN (Zhu et al. 2017): translates images between two domains, learned without pairs.

Two generators are trained to invert each other, with a critic for each domain. The generators' step updates the two
generators only, a critic's step its critic only.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8
from pydantic import model_validator

from gen_jax.core import ops
from gen_jax.core.adversarial import LOSSES, Loss, sure
from gen_jax.core.gradients import Batch, Optimizer, Terms, players, step_together
from gen_jax.core.info import Info
from gen_jax.core.state import Mean, Net, PyTree, State
from gen_jax.errors import ConfigError
from gen_jax.models.base import ModelConfig
from gen_jax.nets.image_to_image import PatchCritic, ResNetTranslator
from gen_jax.settings import FewOrNone, NonNegative, Positive

NETS = ("gen_ab", "gen_ba", "disc_a", "disc_b")
Images = Float[Array, "B H W C"]  # in [-1, 1]


class Config(ModelConfig):
    """The section `config.model`; `config.optim` has the entries `gen_ab`, `gen_ba`, `disc_a` and `disc_b`."""

    image: tuple[Positive, Positive, Positive] = (256, 256, 3)
    """(height, width, channels) of both domains."""
    width: Positive = 64
    """Channels of the generators' first convolution."""
    stages: FewOrNone = 2
    """Strided convolutions down in a generator, and as many up."""
    blocks: FewOrNone = 9
    """Residual blocks of the generators."""
    kernel: Positive = 7
    """Side of the generators' first and last convolution."""
    critic_width: Positive = 64
    """Channels of a critic's first convolution."""
    critic_stages: FewOrNone = 3
    """Strided convolutions of a critic."""
    norm: Literal["instance", "none"] = "instance"
    """`instance` removes brightness and contrast of each image, as in the paper. With `none` a translation can depend
    on them."""
    loss: Literal["least_squares", "minimax", "non_saturating", "hinge", "relativistic"] = "least_squares"
    """The adversarial game."""
    cycle: NonNegative = 5.0
    """Weight of the distance of an image from its translation back.

    The paper's 10 is 5 here, since our least squares have a factor 1/2 on both sides, the paper on the critics' alone.
    """
    identity: NonNegative = 0.0
    """Weight of the distance of an image of the target domain from its own translation; 0 = off.

    If the paper uses it, then with half the cycle weight.
    """
    buffer: Positive = 50
    """Earlier fakes that each row of the batch keeps."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        short, stages = min(self.image[:2]), 2 ** max(self.stages, self.critic_stages)
        if any(side % stages for side in self.image[:2]):
            raise ValueError(f"stages: expected image sides divisible by {stages}, got {self.image[:2]}")
        if self.kernel % 2 == 0 or self.kernel // 2 >= short:
            raise ValueError(f"kernel: expected an odd size below {2 * short}, got {self.kernel}")
        if self.blocks and short < 2 * 2**self.stages:
            raise ValueError(f"stages: expected at least 2 pixels a side between them, got {short >> self.stages}")
        return self

    def check_data(self, info: Info) -> None:
        info.require_kind("unpaired")
        info.require_equal("image", self.image, info.shape)


def exchange(
    buffer: Float[Array, "B K H W C"], fake: Images, count: Int[Array, ""], rng: Key[Array, ""]
) -> tuple[Images, Float[Array, "B K H W C"]]:
    """The fakes that the critic sees instead of `fake`, and the updated buffer (Shrivastava et al. 2017, section 2.3).

    `count` fakes of each row came before. The first K are stored and shown. After that, with probability 1/2 a random
    stored fake is shown and replaced by `fake`; else `fake` itself is shown and not stored.

    The paper keeps one pool of 50. Here each row of the batch has its own pool. Rows never meet, so a batch sharded
    over devices exchanges its fakes without communication, and a row's history does not depend on the other rows. With
    a batch of one row, as in the paper, the two are the same.
    """
    rows, size = buffer.shape[:2]
    swap_rng, place_rng = jax.random.split(rng)
    full = count >= size
    swap = full & jax.random.bernoulli(swap_rng, 0.5, (rows,))
    place = jnp.where(full, jax.random.randint(place_rng, (rows,), 0, size), count)
    chosen = (jnp.arange(size) == place[:, None])[..., None, None, None]  # [B, K, 1, 1, 1]
    swap = swap[:, None, None, None]
    shown = jnp.where(swap, jnp.where(chosen, buffer, 0).sum(1), fake)
    return shown, jnp.where(chosen & (swap | ~full)[:, None], fake[:, None], buffer)


@dataclasses.dataclass(frozen=True)
class CycleGAN:
    """`State.carry` is the image buffer, {"a", "b"} [B, K, H, W, C] of fakes in [-1, 1]: its rows are the batch's."""

    generator: nn.Module  # [B, H, W, C] -> [B, H, W, C] in [-1, 1]
    critic: nn.Module  # [B, H, W, C] -> logits [B, h, w]
    optimizers: tuple[Optimizer, ...]  # of NETS
    loss: Loss
    cycle: float
    identity: float
    buffer: int

    def init(self, rng: jax.Array, batch: Batch) -> State:
        a, b = _domains(batch)
        modules, inputs = (self.generator, self.generator, self.critic, self.critic), (a, b, a, b)
        keys = jax.random.split(rng, len(NETS))
        parts = zip(NETS, self.optimizers, modules, keys, inputs, strict=True)
        nets = {name: optimizer.init(module.init(key, x[:1])) for name, optimizer, module, key, x in parts}
        empty = jnp.zeros((len(a), self.buffer, *a.shape[1:]))
        return State(jnp.zeros((), jnp.int32), nets, {"a": empty, "b": empty})

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict[str, Mean]]:
        """Updates the generators against the current critics, then each critic on the fakes from before that update."""
        rng, a_rng, b_rng = jax.random.split(jax.random.fold_in(rng, state.step), 3)
        gens, means, fakes = self.generators_step(state.nets, batch, rng)
        nets, carry = state.nets | gens, {}
        for domain, real, key in zip("ab", _domains(batch), (a_rng, b_rng), strict=True):
            name = f"disc_{domain}"
            shown, carry[domain] = exchange(state.carry[domain], fakes[domain], state.step, key)
            nets[name], critic_means = self.critic_step(name, nets[name], real, shown, key)
            means |= critic_means
        return State(state.step + 1, nets, carry), means

    def generators_step(
        self, nets: dict[str, Net], batch: Batch, rng: jax.Array
    ) -> tuple[dict[str, Net], dict[str, Mean], dict[str, Images]]:
        """One update of both generators, {"gen_ab", "gen_ba"}. Also returns the fakes {"a", "b"} made before it."""
        discs = {name: nets[name].variables for name in NETS[2:]}

        def loss_fn(params, stats, batch, rng):
            gens = {name: {"params": params[name], **stats[name]} for name in params}
            means, fakes = self.generator_terms(gens | discs, batch)
            return Terms(means | {"loss": means["generator_loss"]}, stats, fakes)

        optimizers = {name: self._optimizer(name) for name in NETS[:2]}
        gens, terms = step_together(optimizers, {name: nets[name] for name in optimizers}, loss_fn, batch, rng)
        return gens, terms.named("generators"), terms.carry

    def critic_step(
        self, name: str, disc: Net, real: Images, fake: Images, rng: jax.Array
    ) -> tuple[Net, dict[str, Mean]]:
        """One update of the critic `name`."""

        def loss_fn(params, stats, batch, rng):
            means = self.critic_terms(name[-1], {"params": params, **stats}, batch["real"], batch["fake"])
            return Terms(means | {"loss": means[f"{name}_loss"]}, stats)

        disc, terms = self._optimizer(name).step(disc, loss_fn, {"real": real, "fake": fake}, rng)
        return disc, terms.named(name)

    def critic_terms(self, domain: str, disc: PyTree, real: Images, fake: Images) -> dict[str, Mean]:
        """The loss of the critic `disc`, its logit gap and its saturation: means over patches, one row an image."""
        parts = {
            f"disc_{domain}_loss": self.loss.critic,
            f"logit_gap_{domain}": jnp.subtract,
            f"critic_saturation_{domain}": functools.partial(sure, self.loss),
        }
        values = self._patches(disc, real, fake, *parts.values())
        return {name: Mean.of(value) for name, value in zip(parts, values, strict=True)}

    def generator_terms(self, nets: dict[str, PyTree], batch: Batch) -> tuple[dict[str, Mean], dict[str, Images]]:
        """The generators' loss and its parts, one row for each pair of images, and the fakes {"a", "b"}.

        Zhu et al. 2017, eq. 1 to 3 and section 5.2. `adversarial` is the sum over both directions. Distances are means
        of |x - y| over pixels and channels in [-1, 1]. `nets` are variables by name.
        """
        a, b = _domains(batch)
        fake_b, fake_a = self._generate(nets["gen_ab"], a), self._generate(nets["gen_ba"], b)
        (of_b,) = self._patches(nets["disc_b"], b, fake_b, self.loss.generator)
        (of_a,) = self._patches(nets["disc_a"], a, fake_a, self.loss.generator)
        adversarial = of_b + of_a
        cycle_a = _distance(self._generate(nets["gen_ba"], fake_b), a)
        cycle_b = _distance(self._generate(nets["gen_ab"], fake_a), b)
        parts = {"adversarial": adversarial, "cycle_a": cycle_a, "cycle_b": cycle_b}
        total = adversarial + self.cycle * (cycle_a + cycle_b)
        if self.identity:
            parts["identity_a"] = _distance(self._generate(nets["gen_ba"], a), a)
            parts["identity_b"] = _distance(self._generate(nets["gen_ab"], b), b)
            total += self.identity * (parts["identity_a"] + parts["identity_b"])
        means = {name: Mean.of(part) for name, part in ({"generator_loss": total} | parts).items()}
        return means, {"a": fake_a, "b": fake_b}

    def eval_step(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, Mean]:
        """The generators' terms, and the critics' on the fakes of this batch, with averaged networks."""
        nets = {name: net.averaged for name, net in state.nets.items()}
        means, fakes = self.generator_terms(nets, batch)
        for domain, real in zip("ab", _domains(batch), strict=True):
            means |= self.critic_terms(domain, nets[f"disc_{domain}"], real, fakes[domain])
        return {name: mean.where(batch["valid"]) for name, mean in means.items()}

    def translate_images(
        self, state: State, images: UInt8[Array, "B H W C"], direction: str
    ) -> UInt8[Array, "B H W C"]:
        """Images of one domain as those of the other, by the averaged generator; direction: "a2b" or "b2a"."""
        net = state.nets[{"a2b": "gen_ab", "b2a": "gen_ba"}[direction]]
        return ops.signed_to_uint8(self._generate(net.averaged, ops.to_signed(images)))

    def _optimizer(self, name: str) -> Optimizer:
        return self.optimizers[NETS.index(name)]

    def _generate(self, variables: PyTree, x: Images) -> Any:
        return self.generator.apply(variables, x)

    def _patches(self, variables: PyTree, real: Images, fake: Images, *of: Callable) -> list[Float[Array, " B"]]:
        """Functions `of` two logits, each averaged over the patches at the same position of both images."""
        logits: Any = [self.critic.apply(variables, x) for x in (real, fake)]  # [B, h, w]
        flat = [x.reshape(-1) for x in logits]
        return [function(*flat).reshape(len(real), -1).mean(1) for function in of]


def _domains(batch: Batch) -> tuple[Images, Images]:
    return ops.to_signed(batch["image_a"]), ops.to_signed(batch["image_b"])


def _distance(x: Images, y: Images) -> Float[Array, " B"]:
    return jnp.abs(x - y).mean((1, 2, 3))


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> CycleGAN:
    """Raises ConfigError if `optimizers` are not those of NETS, or if the generators' micro-batches differ."""
    of_nets = players(optimizers, *NETS)
    if optimizers["gen_ab"].gradients != optimizers["gen_ba"].gradients:
        raise ConfigError("config.optim.gen_ba.micro_batches: expected the same as of gen_ab: they have one loss")
    return CycleGAN(
        generator=ResNetTranslator(cfg.image[-1], cfg.width, cfg.stages, cfg.blocks, cfg.kernel, cfg.norm),
        critic=PatchCritic(cfg.critic_width, cfg.critic_stages, cfg.norm),
        optimizers=of_nets,
        loss=LOSSES[cfg.loss],
        cycle=cfg.cycle,
        identity=cfg.identity,
        buffer=cfg.buffer,
    )
