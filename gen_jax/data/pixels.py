"""Pictures of any kind to uint8 arrays [H, W, C], with Pillow."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gen_jax.data.bounds import check_pixels
from gen_jax.data.reading import printable
from gen_jax.errors import DataError, first_line

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")  # no other decoder is ever run
WHITE = 255
Image.MAX_IMAGE_PIXELS = None  # `check_pixels` is the bound; Pillow's own only warns below twice its size


def to_array(picture: Any, size: int, channels: int, background: int, white: int | None = None) -> np.ndarray:
    """The centre square of a Pillow picture as uint8 [size, size, channels]; grey for 1 channel, RGB for 3.

    Args:
      background: the grey level that transparent pixels are laid on.
      white: of a picture with 32 bits or floats, as in `levels`.
    """
    picture = _opaque(ImageOps.exif_transpose(picture), background, white).convert("L" if channels == 1 else "RGB")
    width, height = picture.size
    side = min(width, height)
    if width != height:
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(size, size, channels)


def _opaque(picture: Any, background: int, white: int | None) -> Any:
    """The picture with 8 bits a channel and no transparency."""
    if picture.mode.startswith(("I", "F")):
        values, hidden = np.asarray(picture), picture.info.get("transparency")  # of a PNG: one level
        grey = levels(values, white if _is_wide(picture) else 65535)
        return Image.fromarray(grey if hidden is None else np.where(values == hidden, np.uint8(background), grey))
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert(picture.mode.upper())
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, (background,) * 3 + (255,)), picture)


def levels(values: np.ndarray, white: int | None = None) -> np.ndarray:
    """Grey values [H, W] of any range as uint8, 0 = black.

    Args:
      white: the value of white; None = `range_of` these values.

    Raises ValueError as `range_of`.
    """
    white = max(range_of(values), white or 0)
    return np.round(values.astype(np.float64) * (255 / white)).astype(np.uint8)


def range_of(values: np.ndarray) -> int:
    """The first of 1 (of floats only), 255, 65535 and 2^31 - 1 that no value exceeds.

    Raises ValueError if a value is negative or not finite, or beyond all of these.
    """
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("expected grey values from 0 upwards, found negative ones, NaN or infinity")
    ranges = (255, 65535, 2**31 - 1) if values.dtype.kind in "iu" else (1, 255, 65535, 2**31 - 1)
    found = next((one for one in ranges if values.max() <= one), None)
    if found is None:
        raise ValueError(f"expected grey values up to {ranges[-1]}, found {values.max():g}")
    return found


def _is_wide(picture: Any) -> bool:
    """Whether the picture has 32 bits a pixel, of a range that its file does not say; 16 bits end at 65535."""
    return picture.mode in ("I", "F") and picture.format not in ("PNG", "PPM")


def white_of(path: Path) -> int:
    """The `range_of` a picture of 32 bits or floats; 0 for others.

    The largest of a set is white in all of its pictures: a dark picture alone has a smaller range than a bright one.
    """
    with _opened(path) as picture:
        return range_of(np.asarray(picture)) if _is_wide(picture) else 0


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """The centre square of uint8 [H, W, C] as [size, size, C]."""
    if image.shape[:2] == (size, size):
        return image
    channels = image.shape[-1]
    return to_array(Image.fromarray(image[..., 0] if channels == 1 else image), size, channels, WHITE)


def read(path: Path, size: int, channels: int, background: int = WHITE, white: int | None = None) -> np.ndarray:
    """A picture file as uint8 [size, size, channels]; of several frames the first.

    16 bits, 32 bits and floats are scaled by their range (`levels`), transparent pixels are laid on the grey level
    `background`. Raises DataError if it is not a picture, is damaged, or has too many pixels.
    """
    with _opened(path) as picture:
        picture.draft("RGB" if channels == 3 else "L", (size, size))
        return to_array(picture, size, channels, background, white)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A picture file while it is read. Raises DataError as `read`."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            check_pixels(printable(path), *picture.size)
            yield picture
    except DataError:
        raise
    except Image.UnidentifiedImageError:
        raise DataError(
            f"{printable(path)}: not a readable picture: of none of the formats {', '.join(FORMATS)}"
        ) from None
    except Exception as error:  # a damaged file: Pillow raises many kinds
        line = first_line(error) or type(error).__name__
        raise DataError(f"{printable(path)}: not a readable picture: {line}") from None
