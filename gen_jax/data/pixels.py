"""Pictures of any kind to uint8 arrays [H, W, C], with Pillow."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gen_jax.data.bounds import check_pixels
from gen_jax.data.reading import shown
from gen_jax.errors import DataError, first_line

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")  # no other decoder is ever run
WHITE = 255
Image.MAX_IMAGE_PIXELS = None  # `check_pixels` is the bound; Pillow's own only warns below twice its size


def to_array(picture: Any, size: int, channels: int, background: int) -> np.ndarray:
    """The centre square of a Pillow picture as uint8 [size, size, channels]; grey for 1 channel, RGB for 3.

    Args:
      background: the grey level that transparent pixels are laid on.
    """
    picture = _opaque(ImageOps.exif_transpose(picture), background).convert("L" if channels == 1 else "RGB")
    width, height = picture.size
    side = min(width, height)
    if width != height:
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(size, size, channels)


def _opaque(picture: Any, background: int) -> Any:
    """The picture with 8 bits a channel and no transparency."""
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(levels(np.asarray(picture), 65535 if picture.mode.startswith("I;16") else None))
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert(picture.mode.upper())
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, (background,) * 3 + (255,)), picture)


def levels(values: np.ndarray, white: int | None = None) -> np.ndarray:
    """Grey values [H, W] of any range as uint8, 0 = black.

    Args:
      white: the value of white. None: the first of 1 (of floats only), 255, 65535 and 2^31 - 1 that none exceeds.

    Raises ValueError where a value is negative or not finite, or beyond all of these.
    """
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("expected grey values from 0 upwards, found negative ones, NaN or infinity")
    if white is None:
        ranges = (255, 65535, 2**31 - 1) if values.dtype.kind in "iu" else (1, 255, 65535, 2**31 - 1)
        white = next((one for one in ranges if values.max() <= one), None)
        if white is None:
            raise ValueError(f"expected grey values up to {ranges[-1]}, found {values.max():g}")
    return np.round(values.astype(np.float64) * (255 / white)).astype(np.uint8)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """The centre square of uint8 [H, W, C] as [size, size, C]."""
    if image.shape[:2] == (size, size):
        return image
    channels = image.shape[-1]
    return to_array(Image.fromarray(image[..., 0] if channels == 1 else image), size, channels, WHITE)


def read(path: Path, size: int, channels: int, background: int = WHITE) -> np.ndarray:
    """A picture file as uint8 [size, size, channels]; of several frames the first.

    16 bits, 32 bits and floats are scaled by their range (`levels`), transparent pixels are laid on the grey level
    `background`. Raises DataError where it is not a picture, is damaged, or has too many pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            check_pixels(shown(path), *picture.size)
            picture.draft("RGB" if channels == 3 else "L", (size, size))
            return to_array(picture, size, channels, background)
    except DataError:
        raise
    except Image.UnidentifiedImageError:
        raise DataError(f"{shown(path)}: not a readable picture: of none of the formats {', '.join(FORMATS)}") from None
    except Exception as error:  # a damaged file: Pillow raises many kinds
        line = first_line(error) or type(error).__name__
        raise DataError(f"{shown(path)}: not a readable picture: {line}") from None
