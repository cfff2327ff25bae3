"""Squash a grey image to the square that the network sees."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mediclip.data.raster import Grey


def to_square(grey: Grey, side: int) -> NDArray[np.float32]:
    """Resize an image with bilinear filtering and scale it to [0, 1].

    Images of 8 bits are resized in 8 bits, as the published code does (METHOD 1.1); deeper ones in float32.
    The filter widens when it shrinks an image (Pillow), so that fine detail is averaged and not aliased.

    Args:
        grey: ``(H, W)`` uint8 in [0, 255] or float32 in [0, 1].
        side: Side S in pixels, at least 1.

    Returns:
        ``(S, S)`` in [0, 1].
    """
    square = Image.fromarray(grey).resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(square, dtype=np.float32)
    if grey.dtype == np.uint8:
        return pixels / np.float32(255)
    return np.clip(pixels, 0, 1)
