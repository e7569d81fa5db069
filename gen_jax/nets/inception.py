"""InceptionV3 as FID uses it: TensorFlow's graph of 2015-12-05, by pytorch-fid's names (Szegedy et al. 2016)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

Kernel = tuple[int, int]
Step = tuple[str, int, Kernel]  # name, width, kernel
ONE, THREE, FIVE, ROW, COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm with stored statistics, ReLU: [B, H, W, C] -> [B, H', W', width]."""

    width: int
    kernel: Kernel
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w K"]:
        x = nn.Conv(self.width, self.kernel, self.stride, self.padding, use_bias=False, name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


class Branches(nn.Module):
    """Chains of convolutions side by side, and a pooled one; their channels are joined.

    chains: of `Step`s; the last step may be a tuple of steps, whose outputs are joined. pool: "mean" (padding does not
    count) or "max" before a 1x1 convolution of `pool_width`. Where that is 0 the block halves the sides: its maximum
    and the last step of each chain have stride 2 and no padding.
    """

    chains: tuple[tuple, ...]
    pool: str = "mean"
    pool_width: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w K"]:
        last = {} if self.pool_width else {"stride": 2, "padding": "VALID"}
        outputs = []
        for *steps, ending in self.chains:
            y = x
            for name, width, kernel in steps:
                y = ConvNorm(width, kernel, name=name)(y)
            endings = ending if isinstance(ending[0], tuple) else (ending,)
            outputs += [ConvNorm(width, kernel, name=name, **last)(y) for name, width, kernel in endings]
        if not self.pool_width:
            return jnp.concatenate([*outputs, nn.max_pool(x, THREE, (2, 2))], -1)
        if self.pool == "mean":
            pooled = nn.avg_pool(x, THREE, padding="SAME", count_include_pad=False)
        else:
            pooled = nn.max_pool(x, THREE, padding="SAME")
        return jnp.concatenate([*outputs, ConvNorm(self.pool_width, ONE, name="branch_pool")(pooled)], -1)


def block_a(pool_width: int, name: str) -> Branches:
    five = (("branch5x5_1", 48, ONE), ("branch5x5_2", 64, FIVE))
    double = (("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, THREE))
    return Branches(((("branch1x1", 64, ONE),), five, double), pool_width=pool_width, name=name)


def block_b(name: str) -> Branches:
    double = (("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, THREE))
    return Branches(((("branch3x3", 384, THREE),), double), name=name)


def block_c(width: int, name: str) -> Branches:
    seven = (("branch7x7_1", width, ONE), ("branch7x7_2", width, ROW), ("branch7x7_3", 192, COLUMN))
    kernels = (ONE, COLUMN, ROW, COLUMN, ROW)
    widths = (width, width, width, width, 192)
    double = tuple((f"branch7x7dbl_{i + 1}", w, k) for i, (w, k) in enumerate(zip(widths, kernels, strict=True)))
    return Branches(((("branch1x1", 192, ONE),), seven, double), pool_width=192, name=name)


def block_d(name: str) -> Branches:
    three = (("branch3x3_1", 192, ONE), ("branch3x3_2", 320, THREE))
    kernels = (ONE, ROW, COLUMN, THREE)
    seven = tuple((f"branch7x7x3_{i + 1}", 192, k) for i, k in enumerate(kernels))
    return Branches((three, seven), name=name)


def block_e(pool: str, name: str) -> Branches:
    def fork(stem: str) -> tuple[Step, Step]:
        return (f"{stem}a", 384, (1, 3)), (f"{stem}b", 384, (3, 1))

    three = (("branch3x3_1", 384, ONE), fork("branch3x3_2"))
    double = (("branch3x3dbl_1", 448, ONE), ("branch3x3dbl_2", 384, THREE), fork("branch3x3dbl_3"))
    return Branches(((("branch1x1", 320, ONE),), three, double), pool, 192, name=name)


class InceptionV3(nn.Module):
    """Images [B, H, W, 3] in about [-1, 1], sides of at least 75 (299 for FID) -> features [B, 2048] and logits.

    The logits [B, 1008] are without bias, as the Inception Score takes them.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> tuple[Float[Array, "B 2048"], Float[Array, "B 1008"]]:
        x = ConvNorm(32, THREE, 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = ConvNorm(32, THREE, 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = nn.max_pool(ConvNorm(64, THREE, name="Conv2d_2b_3x3")(x), THREE, (2, 2))
        x = ConvNorm(80, ONE, name="Conv2d_3b_1x1")(x)
        x = nn.max_pool(ConvNorm(192, THREE, 1, "VALID", name="Conv2d_4a_3x3")(x), THREE, (2, 2))
        for letter, width in (("b", 32), ("c", 64), ("d", 64)):
            x = block_a(width, f"Mixed_5{letter}")(x)
        x = block_b("Mixed_6a")(x)
        for letter, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            x = block_c(width, f"Mixed_6{letter}")(x)
        x = block_d("Mixed_7a")(x)
        x = block_e("max", "Mixed_7c")(block_e("mean", "Mixed_7b")(x))
        x = x.mean((1, 2))
        return x, nn.Dense(1008, use_bias=False, name="fc")(x)
