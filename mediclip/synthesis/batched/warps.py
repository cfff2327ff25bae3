"""Source and sink for many images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mediclip.synthesis.batched.convex import draw_convex_shapes, draw_pixels, pixels_between
from mediclip.synthesis.batched.regions import Pixels, index_row
from mediclip.synthesis.batched.tables import SplineTable
from mediclip.synthesis.deformation import HIGH, LOW
from mediclip.synthesis.shapes import Image, Pair

Field = NDArray[np.float32]
Stretch = Callable[[Field, float], Field]
_LEAST, _NOTHING, _ALL = (np.float32(value) for value in (1e-6, 0, 1))


class Warp(NamedTuple):
    """A shape whose inside moves.

    Attributes:
        is_rectangle: Whether the shape is a rectangle, not an ellipse.
        upright: ``(2, 2)``, see :class:`mediclip.synthesis.batched.convex.ConvexShapes`.
        corner: Where its bounding box lies in the image.
        box: ``(h, w)`` of the bounding box.
        centre: Row and column in the box from which all rays start.
        factor: f, at least 1.
        pixels: The shape's pixels, in the box.
    """

    is_rectangle: bool
    upright: Field
    corner: Pair
    box: Pair
    centre: Pair
    factor: float
    pixels: Pixels

    def places(self, pixels: Pixels, stretch: Stretch) -> Field:
        """Say where pixels look.

        Args:
            pixels: In the box.
            stretch: Turns r / R and f into what r is multiplied with.

        Returns:
            ``(2, N)``, columns and rows in the image.
        """
        row, column = self.centre
        (a, b), (c, d) = self.upright.tolist()
        steps = [(a, b, -a * row - b * column), (c, d, -c * row - d * column), (0, 1, -column), (1, 0, -row)]
        mapped = np.array(steps, np.float32) @ pixels
        share = self._share(mapped[0], mapped[1])
        np.minimum(np.maximum(share, _LEAST, out=share), _ALL, out=share)
        places: Field = mapped[2:]
        places *= stretch(share, self.factor)
        places += np.array([[column + self.corner[1]], [row + self.corner[0]]], np.float32)
        return places

    def _share(self, first: Field, second: Field) -> Field:
        """Compute r / R: 1/t when the edge is t steps away. The steps are where the shape is upright."""
        (a, b), (c, d) = self.upright.tolist()
        y, x = self.centre[0] - (self.box[0] - 1) / 2, self.centre[1] - (self.box[1] - 1) / 2
        near, far = a * y + b * x, c * y + d * x  # the centre
        if self.is_rectangle:
            share = _toward(first, near)
            np.maximum(share, _toward(second, far), out=share)
            return share
        # 1/t = m + √(m² + q) for the positive root of q·t² + 2·m·t = 1, where the step's own length squared
        # is q, and m its product with the centre, both over what the centre leaves to the edge.
        room = max(1 - near * near - far * far, 1e-6)
        m = first * np.float32(near / room)
        m += second * np.float32(far / room)
        first *= first
        second *= second
        first += second
        first *= np.float32(1 / room)
        first += m * m
        share = np.sqrt(first, out=first)
        share += m
        return share


def _toward(way: Field, point: float) -> Field:
    """Give 1/t for the wall at ±1 that ``point + t · way`` meets: ``|way| / (1 - sign(way) · point)``."""
    share = way * np.float32(1 / max(1 - point, 1e-6))
    way *= np.float32(-1 / max(1 + point, 1e-6))
    np.maximum(share, way, out=share)
    return share


def source_stretch(share: Field, factor: float) -> Field:
    """Compute ``s^f / s``: looks nearer to the centre."""
    power = np.log2(share)
    power *= np.float32(factor - 1)
    return np.exp2(power, out=power)


def sink_stretch(share: Field, factor: float) -> Field:
    """Compute ``(1 - (1 - s)^f) / s``: looks nearer to the edge."""
    rest = np.maximum(1 - share, np.float32(1e-12))
    np.log2(rest, out=rest)
    rest *= np.float32(factor)
    np.exp2(rest, out=rest)
    np.subtract(1, rest, out=rest)
    rest /= share
    return rest


def draw_warps(count: int, image_shape: Pair, rng: np.random.Generator) -> list[Warp]:
    """Draw what :func:`mediclip.synthesis.deformation.draw_deformation` draws, many times."""
    shapes = draw_convex_shapes(count, image_shape, LOW, HIGH, rng)
    first, last = shapes.ends()
    corners = rng.integers(np.array(image_shape) - 2 * shapes.half_boxes)
    numbers = np.concatenate([corners, 2 * shapes.half_boxes + 1, draw_pixels(first, last, rng)], axis=1)
    factors = 2 ** rng.uniform(0.5, 2, count)
    parts = zip(
        shapes.is_rectangle.tolist(),
        shapes.upright,
        numbers.tolist(),
        factors.tolist(),
        pixels_between(first, last),
        strict=True,
    )
    return [
        Warp(is_rectangle, upright, (top, left), (height, width), (row, column), factor, pixels)
        for is_rectangle, upright, (top, left, height, width, row, column), factor, pixels in parts
    ]


def warp(
    image: Image, label: Image, warps: list[Warp], stretch: Stretch, table: SplineTable, index: int
) -> None:
    """Do :func:`mediclip.synthesis.deformation.source` or ``sink`` once or twice, in place.

    A second warp looks through the first at the untouched image, so that values are interpolated only once.

    Args:
        image: ``(H, W)`` float32 in [0, 1]; changed.
        label: ``(H, W)`` float32; 1 in the shapes afterwards.
        warps: In the order in which they happen.
        stretch: :func:`source_stretch` or :func:`sink_stretch`.
        table: Where the untouched image is looked up.
        index: Which image it is.
    """
    flat_image, flat_label = image.reshape(-1), label.reshape(-1)
    for number, one in enumerate(warps):
        places = one.places(one.pixels, stretch)
        if number:
            _look_through(warps[0], label, places, stretch)
        values = table.look(index, places)
        np.minimum(np.maximum(values, _NOTHING, out=values), _ALL, out=values)
        to_index = np.array(index_row(one.corner, image.shape[1]), np.float32)
        where = (to_index @ one.pixels).astype(np.intp)
        flat_image[where] = values
        flat_label[where] = _ALL


def _look_through(earlier: Warp, label: Image, places: Field, stretch: Stretch) -> None:
    """Replace places inside an earlier shape, where the label is 1, by those that it looked at, in place."""
    whole = np.rint(places)
    pixels = whole[1] * np.float32(label.shape[1])
    pixels += whole[0]
    near = np.flatnonzero(label.reshape(-1).take(pixels.astype(np.intp)))
    if len(near) == 0:
        return
    (top, left), (height, width) = earlier.corner, earlier.box
    inner = np.ones((3, len(near)), np.float32)
    inner[0], inner[1] = places[1, near] - np.float32(top), places[0, near] - np.float32(left)
    columns, rows = earlier.places(inner, stretch)
    places[0, near] = np.clip(columns, left, left + width - 1)
    places[1, near] = np.clip(rows, top, top + height - 1)
