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
    """

    def __init__(self, images: Image) -> None:
        self.shape: Pair = (images.shape[1], images.shape[2])
        rows, columns = (_spline_matrix(size) for size in self.shape)
        self._width = columns.shape[0]
        self._flat: list[Image] = []
        for image in images:
            coefficients = ndimage.spline_filter(image, order=3, output=np.float32, mode="mirror")
            table: Image = rows @ np.asarray(coefficients, np.float32) @ columns.T
            self._flat.append(table.reshape(-1))

    def look(self, index: int, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Image:
        """Look up values.

        Args:
            index: Which image.
            rows: ``(N,)`` in [0, H - 1].
            columns: ``(N,)`` in [0, W - 1].

        Returns:
            ``(N,)`` float32; splines overshoot, so it may leave the image's range a little.
        """
        table, width = self._flat[index], self._width
        row, column = rows * np.float32(FINENESS), columns * np.float32(FINENESS)
        first, left = row.astype(np.int32), column.astype(np.int32)
        row -= first
        column -= left
        first *= width
        first += left
        above = table.take(first)
        above += column * (table.take(first + 1) - above)
        first += width
        below = table.take(first)
        below += column * (table.take(first + 1) - below)
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
