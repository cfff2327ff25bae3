"""Where an anomaly lies: boxes, masks of Perlin noise, and rotated and sheared rectangles and ellipses.

Everything here is geometry. No function reads a pixel of an image, so masks and maps can be drawn for many
images first and applied to all of them at once.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Pair = tuple[int, int]
ShapeKind = Literal["rectangle", "ellipse"]

MIN_SIDE = 32
"""Smallest image side in pixels that the tasks are made for."""

MAX_ASPECT = 4
"""Largest ratio of two image sides: in long thin boxes a turned Perlin cell hardly ever covers enough."""

PERLIN_LEVEL = 0.3
PERLIN_MIN_COVER = 0.2
SIDE_OFFSET = 0.03
SIDE_GAMMA_SHAPE = 2.0
SIDE_GAMMA_SCALE = 0.1
SHEAR_SD = 0.2


@dataclass(frozen=True)
class Region:
    """A mask in a box of the image.

    Attributes:
        corner: Row and column of the box's first pixel.
        mask: ``(h, w)``, true where the anomaly lies.
    """

    corner: Pair
    mask: Mask

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the box in an image ``(H, W)``."""
        (row, column), (height, width) = self.corner, self.mask.shape
        return slice(row, row + height), slice(column, column + width)

    def label(self, image_shape: Pair) -> Image:
        """Lay the mask on an empty image.

        Args:
            image_shape: ``(H, W)``.

        Returns:
            ``(H, W)`` float32: 1 in the mask, 0 elsewhere.
        """
        label = np.zeros(image_shape, np.float32)
        label[self.window] = self.mask
        return label


def rotation(angle: float) -> NDArray[np.float64]:
    """Return the matrix ``(2, 2)`` that turns (row, column) vectors by ``angle`` radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def draw_sides(image_shape: Pair, low: float, high: float, rng: np.random.Generator) -> Pair:
    """Draw the sides of a box, each uniform and independent of the other.

    Args:
        image_shape: ``(H, W)``.
        low: Smallest side as a share of the image's, in (0, 1).
        high: Upper end as a share of the image's, in (low, 1], itself excluded as in the published code.
        rng: Source of the random numbers.

    Returns:
        Height and width in pixels, at least 3: a Perlin cell of fewer pixels never passes its threshold.
    """
    ends = [(max(3, round(low * side)), max(4, round(high * side))) for side in image_shape]
    height, width = (int(rng.integers(first, last)) for first, last in ends)
    return height, width


def draw_corner(image_shape: Pair, box: Pair, rng: np.random.Generator) -> Pair:
    """Draw a box's corner, uniform over all places where the box lies inside the image.

    Args:
        image_shape: ``(H, W)``.
        box: ``(h, w)``, no larger than the image.
        rng: Source of the random numbers.

    Returns:
        Row and column of the box's first pixel.
    """
    row, column = (int(rng.integers(0, side - part + 1)) for side, part in zip(image_shape, box, strict=True))
    return row, column


def perlin_cell(box: Pair, gradient_angles: NDArray[np.float64], angle: float) -> NDArray[np.float32]:
    """Evaluate one cell of 2-D Perlin noise that is stretched over a box and turned about its middle.

    With cell coordinates ``(a, b)`` in [0, 1)² and the fade ``s(t) = 6t⁵ - 15t⁴ + 10t³``, the noise is √2
    times the blend of ``g_ij · (a - i, b - j)`` over the four corners ``i, j`` in {0, 1} by ``s(a)`` and
    ``s(b)``. Pixels that the turned cell does not reach are 0.

    Args:
        box: ``(h, w)`` in pixels.
        gradient_angles: ``(2, 2)``, direction of the unit gradient at each corner, in radians.
        angle: Rotation in radians.

    Returns:
        ``(h, w)`` float32, about [-1, 1].

    Source:
        K. Perlin, "Improving noise", SIGGRAPH 2002. The published code evaluates the upright cell and
        rotates the picture bilinearly; here the formula is evaluated at the rotated places, which differs
        from it by the error of that interpolation.
    """
    rows = np.arange(box[0], dtype=np.float32)[:, None] - np.float32((box[0] - 1) / 2)
    columns = np.arange(box[1], dtype=np.float32)[None, :] - np.float32((box[1] - 1) / 2)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    places = (cosine * rows - sine * columns, sine * rows + cosine * columns)
    inside = np.ones(box, np.bool_)
    cell: list[NDArray[np.float32]] = []
    for place, side in zip(places, box, strict=True):
        inside &= np.abs(place) <= (side - 1) / 2
        cell.append((place + np.float32((side - 1) / 2)) / np.float32(side))
    first, second = cell
    toward_rows, toward_columns = np.cos(gradient_angles), np.sin(gradient_angles)

    def ramp(i: int, j: int) -> NDArray[np.float32]:
        return np.float32(toward_rows[i, j]) * (first - i) + np.float32(toward_columns[i, j]) * (second - j)

    fade_first, fade_second = (t * t * t * (t * (t * 6 - 15) + 10) for t in cell)
    near, near_end, far, far_end = ramp(0, 0), ramp(1, 0), ramp(0, 1), ramp(1, 1)
    near += fade_first * (near_end - near)
    far += fade_first * (far_end - far)
    near += fade_second * (far - near)
    noise: NDArray[np.float32] = np.where(inside, np.float32(np.sqrt(2)) * near, np.float32(0))
    return noise


def draw_perlin_mask(box: Pair, rng: np.random.Generator) -> Mask:
    """Draw a smooth blob: where one turned cell of Perlin noise is above 0.3.

    Gradients are uniform in direction, the rotation is U(-90°, 90°); both are drawn again until the mask
    covers at least 20 % of its box (about one try in four does).

    Args:
        box: ``(h, w)`` in pixels, both at least 3.
        rng: Source of the random numbers.

    Returns:
        ``(h, w)``. The box's corners are always false: noise is 0 there, or the turned cell ends before.
    """
    while True:
        gradient_angles = rng.uniform(0, 2 * np.pi, (2, 2))
        mask = perlin_cell(box, gradient_angles, rng.uniform(-np.pi / 2, np.pi / 2)) > PERLIN_LEVEL
        if np.count_nonzero(mask) >= PERLIN_MIN_COVER * mask.size:
            return mask


def draw_perlin_region(image_shape: Pair, low: float, high: float, rng: np.random.Generator) -> Region:
    """Draw a Perlin mask of random sides at a random place.

    Args:
        image_shape: ``(H, W)``.
        low: Smallest side as a share of the image's.
        high: Upper end of the sides as a share of the image's.
        rng: Source of the random numbers.

    Returns:
        The region.
    """
    box = draw_sides(image_shape, low, high, rng)
    mask = draw_perlin_mask(box, rng)
    return Region(draw_corner(image_shape, box, rng), mask)


@dataclass(frozen=True)
class ConvexShape:
    """A rectangle or ellipse about the origin, sheared, rotated and scaled by a matrix.

    Attributes:
        kind: ``"rectangle"`` or ``"ellipse"``.
        half_sides: Half the sides (or axes) in pixels along rows and columns before the matrix acts.
        matrix: ``(2, 2)``, invertible, takes the upright shape to the image's (row, column) axes.
    """

    kind: ShapeKind
    half_sides: NDArray[np.float64]
    matrix: NDArray[np.float64]

    @property
    def half_box(self) -> Pair:
        """Whole pixels from the centre to the edge of the bounding box, along rows and columns."""
        reach = np.abs(self.matrix) @ self.half_sides
        return int(np.ceil(reach[0])), int(np.ceil(reach[1]))

    def mask(self) -> Mask:
        """Return ``(2r + 1, 2c + 1)`` for a half box ``(r, c)``: true on and inside the edge."""
        half_rows, half_columns = self.half_box
        grid = np.mgrid[-half_rows : half_rows + 1, -half_columns : half_columns + 1].reshape(2, -1)
        upright = np.abs(np.linalg.inv(self.matrix) @ grid) / self.half_sides[:, None]
        inside = upright.max(axis=0) <= 1 if self.kind == "rectangle" else (upright**2).sum(axis=0) <= 1
        mask: Mask = inside.reshape(2 * half_rows + 1, 2 * half_columns + 1)
        return mask

    def edge_distance(
        self, origin: NDArray[np.float64], directions: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Measure how far the edge is from a point inside, along rays.

        With ``p`` and ``v`` the point and direction in the upright shape's own coordinates, divided by the
        half sides, the edge is the positive ``t`` with ``|p + t v| = 1`` in the maximum norm (rectangle) or
        the Euclidean norm (ellipse).

        Args:
            origin: ``(2,)``, a point on or inside the edge, relative to the centre.
            directions: ``(2, N)``, not zero.

        Returns:
            ``(N,)``, distances in units of the directions' length, at least 0.
        """
        upright = np.linalg.inv(self.matrix) / self.half_sides[:, None]
        point, way = (upright @ origin)[:, None], upright @ directions
        if self.kind == "rectangle":
            ahead = np.full(way.shape, np.inf)
            # A ray parallel to two sides never meets them, so it keeps the infinity.
            np.divide(1 - np.sign(way) * point, np.abs(way), out=ahead, where=np.abs(way) > 1e-12)
            nearest: NDArray[np.float64] = np.maximum(ahead.min(axis=0), 0)
            return nearest
        square, mixed = (way**2).sum(axis=0), (point * way).sum(axis=0)
        room = np.maximum(1 - (point**2).sum(), 0)
        root: NDArray[np.float64] = (np.sqrt(mixed**2 + square * room) - mixed) / square
        return np.maximum(root, 0)


def draw_convex_shape(image_shape: Pair, low: float, high: float, rng: np.random.Generator) -> ConvexShape:
    """Draw a rectangle or ellipse (each with probability 1/2), sheared and rotated.

    Sides are ``(0.03 + Gamma(2, 0.1))`` of the image's, clipped to [low, high] of them and cut to whole
    pixels. Both axes are sheared by N(0, 0.2), then the shape is turned by U(-90°, 90°). If its box then
    passes ``high`` of the image, the shape is scaled down until it does not.

    Args:
        image_shape: ``(H, W)``.
        low: Smallest side as a share of the image's.
        high: Largest side, and largest side of the box, as a share of the image's.
        rng: Source of the random numbers.

    Returns:
        The shape; its box is at most two pixels larger than ``high`` of the image.

    Source:
        The sides follow Schlüter et al., "Natural Synthetic Anomalies", ECCV 2022, as in Baugh et al.,
        "Many Tasks Make Light Work", MICCAI 2023.
    """
    kind: ShapeKind = "rectangle" if rng.random() < 0.5 else "ellipse"
    sides = []
    for side in image_shape:
        share = SIDE_OFFSET + rng.gamma(SIDE_GAMMA_SHAPE, SIDE_GAMMA_SCALE)
        sides.append(int(np.clip(share * side, round(low * side), round(high * side))))
    shear = rng.normal(0, SHEAR_SD, 2)
    matrix = rotation(rng.uniform(-np.pi / 2, np.pi / 2)) @ np.array([[1, shear[0]], [shear[1], 1]])
    shape = ConvexShape(kind, np.array(sides) / 2, matrix)
    excess = max(
        (2 * half + 1) / round(high * side) for half, side in zip(shape.half_box, image_shape, strict=True)
    )
    return shape if excess <= 1 else ConvexShape(kind, shape.half_sides, matrix / excess)
