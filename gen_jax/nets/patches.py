"""Images as maps of patches, whose pixels are channels, and back."""

from jaxtyping import Array, Float


def to_patches(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B H//{side} W//{side} {side}*{side}*C"]:
    """`side` divides H and W."""
    b, height, width, channels = x.shape
    x = x.reshape(b, height // side, side, width // side, side, channels)
    return x.swapaxes(2, 3).reshape(b, height // side, width // side, -1)


def from_patches(x: Float[Array, "B h w D"], side: int) -> Float[Array, "B {side}*h {side}*w D//({side}*{side})"]:
    """The inverse of `to_patches`."""
    b, rows, columns, _ = x.shape
    x = x.reshape(b, rows, columns, side, side, -1)
    return x.swapaxes(2, 3).reshape(b, side * rows, side * columns, -1)
