"""Finds test images that count twice or that a model was trained on, so that scores can also do without them.

Images are compared after preprocessing, by what a model sees. A copy is an image of equal pixels
(:func:`image_digest`), which files that are equal byte by byte have and one picture saved twice in different
files, or a near-copy (:mod:`mediclip.evaluation.likeness`): the same picture after another compression, at
another size or brightness, or with a narrow strip cut off.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mediclip.evaluation.likeness import Likeness, LikenessIndex, likeness


@dataclass(frozen=True)
class Fingerprint:
    """What an image is known again by.

    Attributes:
        digest: SHA-256 of its pixels.
        likeness: What it looks like.
    """

    digest: str
    likeness: Likeness = field(repr=False)


def fingerprint(image: NDArray[np.floating]) -> Fingerprint:
    """Take an image's fingerprint.

    Args:
        image: ``(S, S)`` values in [0, 1], as a model sees them.

    Returns:
        Its fingerprint, 14 KiB.
    """
    return Fingerprint(image_digest(image), likeness(image))


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

    Of several copies the first in the order of the list counts, whatever their labels are. A copy is not
    compared with again: an image counts if it is no copy of one that counts, or of a known one.
    """

    def __init__(self, known: Iterable[Fingerprint] = ()) -> None:
        """Start with images that never count.

        Args:
            known: Fingerprints, usually of the support images.
        """
        self._digests: set[str] = set()
        self._index = LikenessIndex()
        for one in known:
            self._remember(one)

    def is_new(self, image: Fingerprint) -> bool:
        """Say whether an image is a copy of none that is known or was new before; if so, remember it."""
        if image.digest in self._digests or self._index.find([image.likeness])[0]:
            return False
        self._remember(image)
        return True

    def _remember(self, image: Fingerprint) -> None:
        self._digests.add(image.digest)
        self._index.add(image.likeness)
