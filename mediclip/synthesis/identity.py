"""Identity: an image that stays normal, so that a detector also sees what is not an anomaly."""

import numpy as np

from mediclip.synthesis.shapes import Image


def identity(image: Image, _source: Image, _rng: np.random.Generator) -> tuple[Image, Image]:
    """Change nothing.

    Args:
        image: ``(H, W)`` float32 in [0, 1].
        _source: Not used.
        _rng: Not used; no number is drawn.

    Returns:
        A copy of the image, and an empty label ``(H, W)`` float32.
    """
    return image.copy(), np.zeros(image.shape, np.float32)
