"""The vector-quantized autoencoder (van den Oord et al. 2017): images to a grid of codes and back.

The codebook follows the encoder by moving averages (appendix A.1). Codes that are not used restart. `code_prior` is the
model of the codes, and draws samples.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import model_validator

from gen_jax.core import ops
from gen_jax.core.gradients import Batch, Optimizer, Terms
from gen_jax.core.info import Info
from gen_jax.core.state import Mean, PyTree, State
from gen_jax.models.base import LossModel, ModelConfig
from gen_jax.nets import vq
from gen_jax.nets.conv_transpose import ConvTranspose
from gen_jax.nets.residual import ResBlock
from gen_jax.settings import Fraction, NonNegative, Positive, PositiveFloat, Widths


class Config(ModelConfig):
    """The section `config.model`."""

    image: tuple[Positive, Positive, Positive] = (28, 28, 1)
    """(height, width, channels)."""
    widths: Widths = (32, 64)
    """Channels of the encoder's stages. Each halves the sides; the decoder mirrors them."""
    codes: Positive = 128
    """Codes in the codebook."""
    code_width: Positive = 32
    """Dimensions of a code's vector."""
    decay: Fraction = 0.99
    """Decay of the codebook's moving averages."""
    dead_below: NonNegative = 1.0
    """A code that fewer vectors a batch choose, on average, restarts; 0 = never."""
    commitment: NonNegative = 0.25
    """Weight of the commitment loss, the distance of the encoder's output from its codes."""
    variance: PositiveFloat = 0.1
    """Variance of the pixels in [0, 1]. The squared error is divided by it, so the loss has no scale."""

    @model_validator(mode="after")
    def _sides_divide(self) -> "Config":
        stages = 2 ** len(self.widths)
        if not self.widths or self.image[0] % stages or self.image[1] % stages:
            raise ValueError(f"widths: expected 1 or more, with image sides divisible by 2**len(widths) = {stages}")
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the grid of codes."""
        return self.image[0] >> len(self.widths), self.image[1] >> len(self.widths)

    def check_data(self, info: Info) -> None:
        info.require_images("image", self.image)


class Encoder(nn.Module):
    """Images [B, H, W, C] -> vectors [B, h, w, D]."""

    widths: tuple[int, ...]
    code_width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (4, 4), strides=2)(x))
        return nn.Conv(self.code_width, (1, 1))(ResBlock()(x))


class Decoder(nn.Module):
    """Vectors [B, h, w, D] -> images [B, H, W, C], not limited to [0, 1]."""

    widths: tuple[int, ...]
    channels: int

    @nn.compact
    def __call__(self, z: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        x = ResBlock()(nn.Conv(self.widths[-1], (3, 3))(z))
        for width in (*self.widths[-2::-1], self.channels):
            x = ConvTranspose(width)(nn.relu(x))
        return x


class Network(nn.Module):
    """Encoder and decoder. The model quantizes between them."""

    widths: tuple[int, ...]
    code_width: int
    channels: int

    def setup(self):
        self.encoder = Encoder(self.widths, self.code_width)
        self.decoder = Decoder(self.widths, self.channels)

    def encode(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        return self.encoder(x)

    def decode(self, z: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        return self.decoder(z)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return self.decode(self.encode(x))


@dataclasses.dataclass(frozen=True)
class VQVAE(LossModel):
    """The codebook is the collection `codebook` among the network's statistics; `grid` is (h, w)."""

    num_codes: int
    grid: tuple[int, int]
    decay: float
    dead_below: float
    commitment: float
    variance: float

    def init_variables(self, rng: jax.Array, batch: Batch) -> PyTree:
        net_rng, book_rng = jax.random.split(rng)
        variables: Any = self.network.init(net_rng, ops.to_unit(batch["image"][:1]))
        return variables | {"codebook": vq.init_codebook(book_rng, self.num_codes, self.network.code_width)}

    def terms(self, variables: PyTree, batch: Batch, rng: jax.Array, *, step: jax.Array, train: bool) -> Terms:
        """The loss is mse / variance + weight * commitment (eq. 3; moving averages replace its second term).

        `mse` is the mean over pixels in [0, 1], `commitment` the mean over the grid and the vectors' dimensions.
        `batch_perplexity` is the code use of a training batch; the evaluator `codebook` measures it over a split.
        """
        x, book = ops.to_unit(batch["image"]), variables["codebook"]
        z = self._apply(variables, x, "encode")  # [B, h, w, D]
        table = vq.vectors(book)
        codes = vq.nearest(z, table)
        q = table[codes]
        rec = self._apply(variables, vq.straight_through(z, q), "decode")
        mse = ((rec - x) ** 2).mean(axis=(1, 2, 3))
        commitment = ((z - jax.lax.stop_gradient(q)) ** 2).mean(axis=(1, 2, 3))
        means = {"loss": mse / self.variance + self.commitment * commitment, "mse": mse, "commitment": commitment}
        if train:
            book = vq.follow(book, z, codes, self.decay)
            book = vq.restart_dead(book, z, rng, self.dead_below)
            means["batch_perplexity"] = jnp.full_like(mse, vq.perplexity(codes, self.num_codes))  # [B]
        return Terms({name: Mean.of(value) for name, value in means.items()}, {"codebook": book})

    def encode(self, state: State, batch: Batch) -> Array:
        """Codes int32 [B, h, w]."""
        return self.quantise(state, self._apply(state.nets["net"].averaged, ops.to_unit(batch["image"]), "encode"))

    def decode(self, state: State, codes: Array) -> Array:
        """Codes [B, h, w] to uint8 images [B, H, W, C]."""
        return ops.to_uint8(self._apply(state.nets["net"].averaged, self.embed(state, codes), "decode"))

    def embed(self, state: State, codes: Int[Array, "B h w"]) -> Float[Array, "B h w D"]:
        """The vectors of codes."""
        return vq.vectors(state.nets["net"].averaged["codebook"])[codes]

    def quantise(self, state: State, z: Float[Array, "B h w D"]) -> Int[Array, "B h w"]:
        """The codes of the nearest vectors."""
        return vq.nearest(z, vq.vectors(state.nets["net"].averaged["codebook"]))

    def _apply(self, variables: PyTree, x: Array, method: str) -> Any:
        return self.network.apply({"params": variables["params"]}, x, method=method)


def from_config(cfg: Config, optimizers: dict[str, Optimizer]) -> VQVAE:
    return VQVAE(
        network=Network(cfg.widths, cfg.code_width, cfg.image[-1]),
        optimizer=optimizers["net"],
        num_codes=cfg.codes,
        grid=cfg.grid,
        decay=cfg.decay,
        dead_below=cfg.dead_below,
        commitment=cfg.commitment,
        variance=cfg.variance,
    )
