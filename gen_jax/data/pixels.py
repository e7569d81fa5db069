"""Pictures of any kind to uint8 arrays [H, W, C], with Pillow."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gen_jax.errors import DataError


def to_array(picture: Any, size: int, channels: int) -> np.ndarray:
    """The centre square of a Pillow picture as uint8 [size, size, channels]; grey for 1 channel, RGB for 3."""
    picture = ImageOps.exif_transpose(picture).convert("L" if channels == 1 else "RGB")
    width, height = picture.size
    side = min(width, height)
    if width != height:
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(size, size, channels)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """The centre square of uint8 [H, W, C] as [size, size, C]."""
    if image.shape[:2] == (size, size):
        return image
    channels = image.shape[-1]
    return to_array(Image.fromarray(image[..., 0] if channels == 1 else image), size, channels)


def read(path: Path, size: int, channels: int) -> np.ndarray:
    """A picture file as uint8 [size, size, channels]. Raises DataError where it is not a picture."""
    try:
        with Image.open(path) as picture:
            picture.draft("RGB" if channels == 3 else "L", (size, size))
            return to_array(picture, size, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable picture: {error}") from None
