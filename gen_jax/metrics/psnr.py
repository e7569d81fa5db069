"""Peak signal-to-noise ratio."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

CAP = 100.0  # dB: what equal images get


def psnr(a: UInt8[Array, "B H W C"], b: UInt8[Array, "B H W C"]) -> Float[Array, " B"]:
    """10 log10(255^2 / mean squared error) of each pair of images, in dB; equal images get `CAP`."""
    error = a.astype(jnp.float32) - b.astype(jnp.float32)
    mse = (error**2).mean((1, 2, 3))
    return jnp.minimum(10 * jnp.log10(255.0**2 / jnp.maximum(mse, 1e-9)), CAP)
