"""What an image looks like at low resolution, so that a copy is known again after it was saved another way.

An image's likeness is the first 16 x 16 coefficients of its discrete cosine transform, without the mean, each
weighted by its frequency, together of length 1: brightness, contrast, compression and scale hardly change it,
the weights let edges count as much as the general shape, which all scans of one organ share. It is taken of
the whole image, and of the image with up to 5 % cut from its edges. Two images are near-copies if one of
these of the one and the whole of the other are closer than ``MAX_DISTANCE``.

Source:
    The coefficients are those of the perceptual hash of Zauner, "Implementation and Benchmarking of
    Perceptual Image Hash Functions" (2010), section 3.2.3. Deviation: they are not cut to one bit each,
    because the bits of two scans of one organ differ too little.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dct

MAX_DISTANCE: Final = 0.045
"""In [0, 2], 1 minus the correlation. Copies that were compressed, scaled, brightened or cut lay below 0.045
but for some that were cut at one edge alone; different images of one organ above 0.054."""
_SIDE: Final = 64
_KEPT: Final = 16
_EVEN_CUTS: Final = (0.01, 0.02, 0.03, 0.04, 0.05)
_CORNER_CUTS: Final = (0.02, 0.04)
_BLOCK: Final = 256


@dataclass(frozen=True)
class Likeness:
    """What one image looks like.

    Attributes:
        whole: ``(256,)`` float32 of length 1; 0 throughout for an image of one grey.
        cut: ``(13, 256)`` float32 likewise, of what is left when its edges are cut.
    """

    whole: NDArray[np.float32]
    cut: NDArray[np.float32]


def likeness(image: NDArray[np.floating]) -> Likeness:
    """Compute an image's likeness.

    Args:
        image: ``(S, S)`` grey in [0, 1].

    Returns:
        The likeness, 14 KiB.
    """
    picture = Image.fromarray(image.astype(np.float32))
    every = np.stack([_coefficients(picture, cut) for cut in ((0.0,) * 4, *_cuts())])
    return Likeness(every[0], every[1:])


class LikenessIndex:
    """Finds the near-copies of an image among those that were added before, in the time of a few products.

    The memory is 14 KiB an image.
    """

    def __init__(self) -> None:
        self._whole = np.empty((_BLOCK, _KEPT**2), np.float32)
        self._cut = np.empty((_BLOCK, len(_cuts()), _KEPT**2), np.float32)
        self._count = 0

    def __len__(self) -> int:
        """Count the images that were added."""
        return self._count

    def find(self, images: Sequence[Likeness]) -> list[list[tuple[int, float]]]:
        """Find the near-copies of some images among those that were added.

        Args:
            images: M likenesses.

        Returns:
            For each of the M images the numbers of its near-copies, from 0 in the order in which they were
            added, and their distances in [0, ``MAX_DISTANCE``).
        """
        if not images or not self._count:
            return [[] for _ in images]
        distance = self._distance(images)
        return [
            [(int(i), max(0.0, float(row[i]))) for i in np.flatnonzero(row < MAX_DISTANCE)]
            for row in distance
        ]

    def add(self, image: Likeness) -> None:
        """Add an image."""
        if self._count == len(self._whole):
            self._whole = np.concatenate([self._whole, np.empty_like(self._whole)])
            self._cut = np.concatenate([self._cut, np.empty_like(self._cut)])
        self._whole[self._count], self._cut[self._count] = image.whole, image.cut
        self._count += 1

    def _distance(self, images: Sequence[Likeness]) -> NDArray[np.float32]:
        """Return ``(M, N)`` least distances of M new and N added images."""
        whole = np.stack([image.whole for image in images])
        cut = np.concatenate([image.cut for image in images])
        here, here_cut = self._whole[: self._count], self._cut[: self._count]
        closest = whole @ here.T
        turned = (cut @ here.T).reshape(len(images), -1, self._count)  # (M, 13, N)
        np.maximum(closest, turned.max(axis=1), out=closest)
        for start in range(0, self._count, _BLOCK):
            part = here_cut[start : start + _BLOCK]
            likest = (whole @ part.reshape(-1, _KEPT**2).T).reshape(len(images), len(part), -1).max(axis=2)
            np.maximum(closest[:, start : start + _BLOCK], likest, out=closest[:, start : start + _BLOCK])
        return 1 - closest


@cache
def _cuts() -> tuple[tuple[float, float, float, float], ...]:
    """List shares to cut at the left, right, upper and lower edge."""
    even = [(share,) * 4 for share in _EVEN_CUTS]
    sides = ((1, 0, 1, 0), (1, 0, 0, 1), (0, 1, 1, 0), (0, 1, 0, 1))
    corners = [(s * a, s * b, s * c, s * d) for s in _CORNER_CUTS for a, b, c, d in sides]
    return (*even, *corners)


@cache
def _basis() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the ``(16, 64)`` first cosines of the orthonormal DCT-II, and the ``(16, 16)`` weights."""
    cosines = np.asarray(dct(np.eye(_SIDE), axis=0, norm="ortho"))[:_KEPT]
    down, across = np.mgrid[:_KEPT, :_KEPT]
    return cosines.astype(np.float32), np.hypot(down, across).astype(np.float32)


def _coefficients(picture: Image.Image, cut: tuple[float, float, float, float]) -> NDArray[np.float32]:
    width, height = picture.size
    left, right, top, bottom = cut
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    small = np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=box))
    cosines, weights = _basis()
    kept: NDArray[np.float32] = (cosines @ (small - small.mean()) @ cosines.T * weights).ravel()
    length = np.linalg.norm(kept)
    # Rounding alone is left of an image of one grey.
    return kept / np.float32(length) if length > 1e-4 else np.zeros_like(kept)
