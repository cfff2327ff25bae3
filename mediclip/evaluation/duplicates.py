"""Finds test images that count twice or that a model was trained on, so that scores can also do without them.

Images are compared after preprocessing, by what a model sees: files that are equal byte by byte are found,
and so is one picture saved twice in different files. Near-duplicates, which differ in a pixel, are not.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def image_digest(image: NDArray[np.floating]) -> str:
    """Compute the SHA-256 of a preprocessed image.

    Args:
        image: ``(S, S)`` values in [0, 1], taken as float32.

    Returns:
        64 hexadecimal digits, equal for equal shape and pixels and on every machine.
    """
    pixels = np.ascontiguousarray(image, dtype="<f4")
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


class CopyFilter:
    """Tells a first appearance from a copy, one image at a time.

    Of several equal images the first in the order of the list counts, whatever their labels are.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        """Start with images that never count.

        Args:
            known: Digests from :func:`image_digest`, usually of the support images.
        """
        self._seen = set(known)

    def is_new(self, digest: str) -> bool:
        """Say whether an image is neither known nor has been asked about before, and remember it."""
        is_new = digest not in self._seen
        self._seen.add(digest)
        return is_new
