"""The pairs of networks that `models.gan` trains against each other."""

import functools
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from gen_jax.nets.adversarial import BatchNorm, ConditionalBatchNorm, Identity, MLPCritic, MLPGenerator, plain, spectral
from gen_jax.nets.dcgan import DCGANCritic, DCGANGenerator
from gen_jax.nets.sngan import ResNetCritic, ResNetGenerator, sides


def check_pair(
    image: tuple[int, ...],
    net: str,
    widths: tuple[int, ...],
    critic_widths: tuple[int, ...],
    attention: int,
    hidden: int,
) -> None:
    """Raises ValueError, which begins with a field's name, if the sizes of the networks do not fit the images."""
    stages = 2 ** max(len(widths), len(critic_widths) if net == "dcgan" else 0)
    if net != "mlp" and (image[0] % stages or image[1] % stages):
        raise ValueError(f"widths: expected image sides divisible by 2**(number of stages) = {stages}")
    known = [0, *(sides(image, len(widths), len(critic_widths or widths)) if net == "resnet" else [])]
    if attention not in known:
        raise ValueError(f"attention: expected one of {known}, sides of maps of both networks of the net resnet")
    if hidden and net != "dcgan":
        raise ValueError("hidden: expected 0 beside another net than dcgan")


def pair(
    shape: tuple[int, ...],
    net: str,
    widths: tuple[int, ...],
    critic_widths: tuple[int, ...],
    num_classes: int,
    critic_norm: str,
    attention: int,
    hidden: int,
) -> tuple[nn.Module, nn.Module]:
    """A generator of examples of `shape` and a critic of them. The fields are those of `models.gan.Config`."""
    wrap = spectral if critic_norm == "spectral" else plain
    if net == "mlp":
        return MLPGenerator(shape, widths, num_classes), MLPCritic(critic_widths, num_classes, wrap)
    height, width, channels = shape
    image = (height, width, channels)
    norm = functools.partial(ConditionalBatchNorm, num_classes) if num_classes else BatchNorm
    if net == "resnet":
        return (
            ResNetGenerator(image, widths, norm, attention),
            ResNetCritic(critic_widths, num_classes, wrap, attention),
        )
    batch_norm = BatchNorm if critic_norm == "batch" else Identity
    return (
        DCGANGenerator(image, widths, norm, hidden),
        DCGANCritic(critic_widths, num_classes, batch_norm, wrap, hidden),
    )


def run(module: nn.Module, variables: Any, x: Array, label: Array | None, train: bool) -> tuple[Any, Any]:
    """The output of a network for x [B, ...], and its updated statistics."""
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    result: Any = module.apply(variables, x, label, train, mutable=list(stats) if train else [])
    return result[0], stats | result[1]
