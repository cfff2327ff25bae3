"""Coordinates, smooth noise, soft edges and distances to curves: what the organs are drawn with.

Everything is in body units: an image spans [-1, 1] both ways, x to its right and y down, so that a phantom
looks the same at every size. Letters of the shapes: S size, N points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

Field = NDArray[np.floating]
Mask = NDArray[np.bool_]
Points = NDArray[np.floating]

# The mean square of the weights of a cubic B-spline: the variance that white noise keeps in one direction.
_SPLINE_VARIANCE = 151 / 315


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number uniformly from [low, high)."""
    return float(rng.uniform(low, high))


@dataclass(frozen=True)
class Frame:
    """Where the body lies in the image: rotated by ``angle``, magnified by ``zoom``, then shifted.

    Attributes:
        size: Side S of the image in pixels.
        angle: Rotation in radians, clockwise on the screen.
        shift: Where the body's origin appears, (x, y) in image units of [-1, 1].
        zoom: Magnification; 1 makes body units and image units agree.
    """

    size: int
    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0

    @cached_property
    def _body(self) -> tuple[Field, Field]:
        centres = (np.arange(self.size, dtype=np.float32) + 0.5) * (2 / self.size) - 1
        right, down = centres[None, :] - self.shift[0], centres[:, None] - self.shift[1]
        c, s = math.cos(self.angle) / self.zoom, math.sin(self.angle) / self.zoom
        return c * right + s * down, c * down - s * right

    @property
    def x(self) -> Field:
        """Body coordinate to the image's right of each pixel's centre, ``(S, S)``."""
        return self._body[0]

    @property
    def y(self) -> Field:
        """Body coordinate downwards of each pixel's centre, ``(S, S)``."""
        return self._body[1]

    @property
    def pixel(self) -> float:
        """Side of a pixel in body units."""
        return 2 / self.size / self.zoom

    def pixels(
        self, x: NDArray[np.floating], y: NDArray[np.floating]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return row and column of the pixels at body coordinates of any shape, inside the image or not."""
        c, s = math.cos(self.angle) * self.zoom, math.sin(self.angle) * self.zoom
        right, down = x * c - y * s + self.shift[0], x * s + y * c + self.shift[1]
        half = self.size / 2
        return np.floor((down + 1) * half).astype(np.intp), np.floor((right + 1) * half).astype(np.intp)

    def nearest(self, points: Points) -> tuple[Field, NDArray[np.intp]]:
        """Find the nearest of many points on curves for each pixel.

        Args:
            points: ``(N, 2)`` body coordinates, closer together than a pixel along each curve.

        Returns:
            Distance in body units ``(S, S)`` and the index of the nearest point ``(S, S)``, by which the
            caller looks up radius or brightness along the curves. The distance is from the point itself,
            not from its pixel, so that lines stay smooth; but the point is the one in the nearest pixel, so
            the distance may be too large by the square root of 2 pixels. With no point in the image it is 9.
        """
        row, column = self.pixels(points[:, 0], points[:, 1])
        inside = np.flatnonzero((column >= 0) & (column < self.size) & (row >= 0) & (row < self.size))
        if not inside.size:
            return np.full((self.size, self.size), 9.0, np.float32), np.zeros((self.size,) * 2, np.intp)
        owner = np.full((self.size, self.size), -1, np.intp)
        owner[row[inside], column[inside]] = inside
        rows, columns = ndimage.distance_transform_edt(owner < 0, return_distances=False, return_indices=True)
        index = owner[rows, columns]
        return np.hypot(self.x - points[index, 0], self.y - points[index, 1]), index


@lru_cache(maxsize=64)
def _spline_matrix(size: int, cells: int) -> Field:
    """Return the ``(size, cells + 3)`` matrix that evaluates a uniform cubic B-spline at the pixels."""
    position = (np.arange(size) + 0.5) * cells / size
    first = np.minimum(position.astype(np.intp), cells - 1)
    t = position - first
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    matrix = np.zeros((size, cells + 3))
    for offset, weight in enumerate(weights):
        matrix[np.arange(size), first + offset] = weight / 6
    return matrix.astype(np.float32)


def smooth_noise(rng: np.random.Generator, size: int, cells: int, cells_down: int | None = None) -> Field:
    """Draw Gaussian noise of unit variance that varies over a cell's length.

    The same generator gives the same pattern at every size, which white noise on the pixels would not.

    Args:
        rng: Source of randomness.
        size: Side S of the image in pixels.
        cells: Cells from left to right, at least 1.
        cells_down: Cells from top to bottom; as many as ``cells`` if not given.

    Returns:
        ``(S, S)`` float32.
    """
    down = cells if cells_down is None else cells_down
    lattice = rng.standard_normal((down + 3, cells + 3), dtype=np.float32)
    smooth: Field = _spline_matrix(size, down) @ lattice @ _spline_matrix(size, cells).T
    return smooth / np.float32(_SPLINE_VARIANCE)


def fractal_noise(
    rng: np.random.Generator, size: int, cells: int, octaves: int, *, gain: float = 0.6, stretch: float = 1.0
) -> Field:
    """Add noise of ever finer cells: ``octaves`` of them, each ``gain`` times as strong as the one before.

    Args:
        rng: Source of randomness.
        size: Side S of the image in pixels.
        cells: Cells across of the coarsest octave.
        octaves: How many octaves, at least 1.
        gain: Amplitude of an octave over that of the one before.
        stretch: Length of a cell over its height: 3 gives structures that lie flat.

    Returns:
        ``(S, S)`` float32 of unit variance.
    """
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        across = cells * 2**octave
        total += gain**octave * smooth_noise(rng, size, across, max(1, round(across * stretch)))
    return total / np.float32(math.sqrt(sum(gain ** (2 * octave) for octave in range(octaves))))


def coverage(distance: Field, softness: float) -> Field:
    """Turn a signed distance (positive inside) into a soft membership in [0, 1], one half on the edge.

    Args:
        distance: ``(S, S)`` signed distance in body units.
        softness: Width of the edge in the same units; at least a pixel avoids stairs.

    Returns:
        ``(S, S)`` float32 in [0, 1]: the cubic smooth step across the edge.
    """
    t = np.clip(distance / softness + 0.5, 0, 1)
    soft: Field = t * t * (3 - 2 * t)
    return soft


def chord(distance: Field, radius: Field | float) -> Field:
    """Return how much of a round body a ray meets: sqrt(1 - (distance / radius)²), 0 outside.

    Args:
        distance: ``(S, S)`` distance of the ray from the body's axis.
        radius: The body's radius, one number or ``(S, S)``, positive.

    Returns:
        ``(S, S)`` float32 in [0, 1].
    """
    share: Field = np.sqrt(np.clip(1 - np.square(distance / radius), 0, 1))
    return share


def dome(depth: Field, reach: float) -> Field:
    """Return the thickness of a body with a round rim: 0 at depth 0, 1 from depth ``reach`` on."""
    return chord(1 - np.clip(depth / reach, 0, 1), 1.0)


def blend(under: Field, value: Field | float, opacity: Field) -> Field:
    """Lay ``value`` over ``under`` with the opacity in [0, 1] of each pixel."""
    return under + (value - under) * opacity


def profile(position: Field, knots: Sequence[float], values: Sequence[float]) -> Field:
    """Interpolate a curve through knots without overshoot and look it up at every pixel.

    Args:
        position: ``(S, S)`` where to look it up.
        knots: Increasing positions, at least two; beyond them the end values hold.
        values: The curve's value at each knot.

    Returns:
        ``(S, S)`` float32.
    """
    fine = np.linspace(knots[0], knots[-1], 512)
    return np.interp(position, fine, PchipInterpolator(knots, values)(fine)).astype(np.float32)


def rough_ellipse(
    frame: Frame,
    rng: np.random.Generator,
    centre: tuple[float, float],
    radii: tuple[float, float],
    *,
    angle: float = 0.0,
    roughness: float = 0.0,
    harmonics: Sequence[int] = (2, 3, 4, 5, 6, 7),
) -> Field:
    """Return the signed distance from an ellipse whose rim wavers.

    Args:
        frame: Where the body lies.
        rng: Source of randomness for the rim.
        centre: (x, y) of the centre in body units.
        radii: The half axes in body units.
        angle: Rotation in radians, clockwise on the screen.
        roughness: Standard deviation of the rim over the radius: 0 is smooth, 0.2 very irregular.
        harmonics: Waves round the rim; more of them make a finer rim.

    Returns:
        ``(S, S)`` float32, positive inside, near the rim in body units of the mean radius.
    """
    x, y = frame.x - centre[0], frame.y - centre[1]
    c, s = math.cos(angle), math.sin(angle)
    along, across = (c * x + s * y) / radii[0], (c * y - s * x) / radii[1]
    rim = np.ones_like(x)
    if roughness > 0:
        theta = np.arctan2(across, along)
        strength = [1 / n for n in harmonics]
        scale = roughness * math.sqrt(2 / sum(a * a for a in strength))
        for n, amplitude in zip(harmonics, strength, strict=True):
            wave = amplitude * scale * rng.normal()
            rim += wave * np.sin(n * theta + rng.uniform(0, 2 * math.pi))
    return (rim - np.hypot(along, across)) * (0.5 * (radii[0] + radii[1]))


def smooth_curve(control: Sequence[tuple[float, ...]], step: float) -> Points:
    """Run a smooth curve through control points.

    Args:
        control: At least two tuples (x, y, ...); further numbers such as a radius are carried along.
        step: Distance between the points returned, in body units; under a pixel for ``Frame.nearest``.

    Returns:
        ``(N, columns)`` float32 points of a Catmull-Rom spline.
    """
    knots = np.asarray(control, np.float32)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    longest = float(np.hypot(*(knots[1:, :2] - knots[:-1, :2]).T).max())
    t = np.linspace(0, 1, max(2, math.ceil(longest * 1.2 / step) + 1), dtype=np.float32)[:, None]
    a, b, c, d = (padded[i : i + len(knots) - 1, None] for i in range(4))  # each (segments, 1, columns)
    pieces: Points = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return pieces.reshape(-1, knots.shape[1])


def wandering_curves(
    rng: np.random.Generator, starts: Points, headings: Field, lengths: Field, *, bend: float, step: float
) -> Points:
    """Walk from many points at once, each with a heading that drifts at random.

    Args:
        rng: Source of randomness.
        starts: ``(M, 2)`` body coordinates.
        headings: ``(M,)`` first directions in radians, 0 to the right and π/2 down.
        lengths: ``(M,)`` lengths of the walks in body units.
        bend: Standard deviation of the heading's change over a whole walk, in radians.
        step: Greatest distance between the points returned, in body units.

    Returns:
        ``(M, T, 2)`` float32 points from start to end; the longest walk decides T, at least 2.
    """
    count = max(2, math.ceil(float(np.max(lengths)) / step) + 1)
    turns = rng.normal(0, bend / 2, (len(starts), 4)).cumsum(axis=1)
    turns = np.concatenate([np.zeros((len(starts), 1)), turns], axis=1)
    knot, share = np.divmod(np.linspace(0, 4, count - 1, endpoint=False), 1)
    knot = knot.astype(np.intp)
    drift = turns[:, knot] * (1 - share) + turns[:, knot + 1] * share  # (M, T - 1)
    direction = np.asarray(headings)[:, None] + drift
    steps = np.stack([np.cos(direction), np.sin(direction)], axis=2)
    steps *= (np.asarray(lengths) / (count - 1))[:, None, None]
    walks = np.concatenate([np.zeros((len(starts), 1, 2)), steps.cumsum(axis=1)], axis=1)
    return (walks + np.asarray(starts)[:, None]).astype(np.float32)


def pick_place(rng: np.random.Generator, frame: Frame, room: Field) -> tuple[float, float]:
    """Choose a point, uniform in the image, where there is room; the roomiest one where there is nowhere.

    Args:
        rng: Source of randomness; it gives the same place at every size, but for points at the very edge.
        frame: Where the body lies.
        room: ``(S, S)``, positive where a thing may be put.

    Returns:
        (x, y) in body units.
    """
    rows, columns = (rng.uniform(0, 1, (2, 512)) * frame.size).astype(np.intp)
    fits = np.flatnonzero(room[rows, columns] > 0)
    if fits.size:
        row, column = int(rows[fits[0]]), int(columns[fits[0]])
    else:
        row, column = divmod(int(room.argmax()), frame.size)
    return float(frame.x[row, column]), float(frame.y[row, column])
