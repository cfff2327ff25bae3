"""Images as tables of quarter pixels, so that a cubic spline costs no more than a bilinear look-up."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mediclip.synthesis.shapes import Image, Pair

FINENESS = 4


class SplineTable:
    """Cubic spline interpolation of images between their pixels, by bilinear look-up at quarter pixels.

    The spline is that of the whole image, mirrored at its edge. A table takes 64 bytes a pixel.

    Args:
        images: ``(K, H, W)`` float32.

    Attributes:
        shape: ``(H, W)``.
        ends: The darkest and the brightest value of each image.
    """

    def __init__(self, images: Image) -> None:
        self.shape: Pair = (images.shape[1], images.shape[2])
        self.ends = [(image.min(), image.max()) for image in images]
        rows, columns = (_spline_matrix(size) for size in self.shape)
        # One array: NumPy asks for large pages for large arrays, and look-ups go all over a table.
        tables = np.empty((len(images), len(rows), len(columns)), np.float32)
        for image, table in zip(images, tables, strict=True):
            coefficients = ndimage.spline_filter(image, order=3, output=np.float32, mode="mirror")
            np.matmul(rows @ np.asarray(coefficients, np.float32), columns.T, out=table)
        self._width = len(columns)
        self._flat: list[Image] = list(tables.reshape(len(images), -1))

    def look(self, index: int, places: NDArray[np.float32]) -> Image:
        """Look up values.

        Args:
            index: Which image.
            places: ``(2, N)`` columns in [0, W - 1] and rows in [0, H - 1]; overwritten.

        Returns:
            ``(N,)`` float32; splines overshoot, so it may leave the image's range a little.
        """
        table = self._flat[index]
        places *= np.float32(FINENESS)
        whole = np.floor(places)
        places -= whole
        column, row = places
        left, first = whole.astype(np.intp)
        first *= self._width
        first += left
        above: Image = table.take(first)
        first += 1
        above += column * (table.take(first) - above)
        first += self._width
        below = table.take(first)
        first -= 1
        column -= 1
        below += column * (below - table.take(first))  # the one to the right was taken first
        below -= above
        below *= row
        above += below
        return above


def _spline_matrix(size: int) -> NDArray[np.float32]:
    """Give the cubic B-spline at quarter pixels, ``(FINENESS · size + 1, size)``, mirrored at the ends."""
    places = np.arange(FINENESS * size + 1) / FINENESS  # a little beyond the last pixel, for its neighbour
    matrix = np.zeros((len(places), size))
    for knot in range(-2, size + 3):
        distance = np.abs(places - knot)
        near = 2 / 3 - distance**2 + distance**3 / 2
        far = (2 - distance) ** 3 / 6
        weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
        inside = abs(knot) if knot < size else 2 * (size - 1) - knot
        matrix[:, inside] += weight
    return matrix.astype(np.float32)
