"""Source and sink: the inside of a shape is pushed away from a point, or drawn into it; the outside stays."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mediclip.synthesis.shapes import ConvexShape, Image, Pair, Region, draw_convex_shape, draw_corner

LOW, HIGH = 0.2, 0.6
Radius = Callable[[NDArray[np.float64], NDArray[np.float64], float], NDArray[np.float64]]


@dataclass(frozen=True)
class Deformation:
    """One deformation before it meets an image.

    Attributes:
        shape: What is deformed.
        region: The shape's mask, and where it lies.
        centre: Row and column in the region's box from which all rays start, a pixel of the mask.
        factor: Exponent ``f``; 1 leaves everything where it is.
    """

    shape: ConvexShape
    region: Region
    centre: Pair
    factor: float


def draw_deformation(image_shape: Pair, rng: np.random.Generator) -> Deformation:
    """Draw a shape, its place, a centre uniform over its pixels, and f = 2^U(0.5, 2).

    Args:
        image_shape: ``(H, W)``.
        rng: Source of the random numbers.

    Returns:
        The deformation.
    """
    shape = draw_convex_shape(image_shape, LOW, HIGH, rng)
    mask = shape.mask()
    height, width = mask.shape
    corner = draw_corner(image_shape, (height, width), rng)
    rows, columns = np.nonzero(mask)
    chosen = int(rng.integers(rows.size))
    centre = int(rows[chosen]), int(columns[chosen])
    return Deformation(shape, Region(corner, mask), centre, 2 ** rng.uniform(0.5, 2))


def source_radius(
    radius: NDArray[np.float64], edge: NDArray[np.float64], factor: float
) -> NDArray[np.float64]:
    """Return where a pixel looks in a source: ``r^f / R^(f-1)``, nearer to the centre for f > 1.

    Args:
        radius: ``(N,)``, distance ``r`` from the centre.
        edge: ``(N,)``, distance ``R`` of the edge on the same ray, at least ``r``.
        factor: ``f``, at least 1.

    Returns:
        ``(N,)`` in [0, R].
    """
    share: NDArray[np.float64] = _share(radius, edge)
    return edge * share**factor


def sink_radius(radius: NDArray[np.float64], edge: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Return where a pixel looks in a sink: ``R - (R-r)^f / R^(f-1)``, nearer to the edge for f > 1.

    Args:
        radius: ``(N,)``, distance ``r`` from the centre.
        edge: ``(N,)``, distance ``R`` of the edge on the same ray, at least ``r``.
        factor: ``f``, at least 1.

    Returns:
        ``(N,)`` in [0, R].
    """
    share: NDArray[np.float64] = _share(radius, edge)
    return edge * (1 - (1 - share) ** factor)


def _share(radius: NDArray[np.float64], edge: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return r / R, at most 1; 1 where R is 0, which happens only on the edge itself."""
    share = np.ones_like(radius)
    np.divide(radius, edge, out=share, where=edge > 0)
    return np.minimum(share, 1)


def look_up(deformation: Deformation, new_radius: Radius) -> NDArray[np.float64]:
    """Find the place that each pixel of the shape takes its value from.

    Args:
        deformation: What is deformed, and how strongly.
        new_radius: :func:`source_radius` or :func:`sink_radius`.

    Returns:
        ``(2, N)``, rows and columns in the region's box for its N true pixels in C order. All lie inside
        the shape; the centre keeps its own place.
    """
    mask = deformation.region.mask
    pixels = np.stack(np.nonzero(mask)).astype(np.float64)
    centre = np.array(deformation.centre, np.float64)
    offsets = pixels - centre[:, None]
    radius = np.hypot(offsets[0], offsets[1])
    away = radius > 0
    rays = offsets[:, away] / radius[away]
    middle = (np.array(mask.shape) - 1) / 2
    edge = deformation.shape.edge_distance(centre - middle, rays)
    places = pixels.copy()
    places[:, away] = centre[:, None] + rays * new_radius(radius[away], edge, deformation.factor)
    return places


def deform(image: Image, region: Region, places: NDArray[np.float64]) -> Image:
    """Fill a region with the image's own values from other places of its box.

    Args:
        image: ``(H, W)`` float32 in [0, 1].
        region: What is filled.
        places: ``(2, N)`` from :func:`look_up`.

    Returns:
        ``(H, W)`` float32 in [0, 1], by cubic splines; the same values as before outside the region.
    """
    result = image.copy()
    box = image[region.window]
    values = ndimage.map_coordinates(box, places, output=np.float32, order=3, mode="nearest")
    result[region.window][region.mask] = np.clip(values, 0, 1)
    return result


def source(image: Image, _source: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Push the inside of a random shape away from a random point in it, as a growing mass would.

    Args:
        image: ``(H, W)`` float32 in [0, 1].
        _source: Not used.
        rng: Source of the random numbers.

    Returns:
        The changed image ``(H, W)`` float32 in [0, 1], and the shape as a label ``(H, W)`` of 0 and 1. Where
        the image is flat inside the shape the label stands although no value changes, as published.

    Source:
        METHOD 1.8 and Baugh et al., "Many Tasks Make Light Work", MICCAI 2023, section 2.
    """
    return _deformed(image, source_radius, rng)


def sink(image: Image, _source: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Draw the inside of a random shape into a random point in it, as a shrinking organ would.

    The factor has the distribution of :func:`source`, 2^U(0.5, 2), as in the published code.

    Args:
        image: ``(H, W)`` float32 in [0, 1].
        _source: Not used.
        rng: Source of the random numbers.

    Returns:
        The changed image ``(H, W)`` float32 in [0, 1], and the shape as a label ``(H, W)`` of 0 and 1. Where
        the image is flat inside the shape the label stands although no value changes, as published.

    Source:
        METHOD 1.8 and Baugh et al., "Many Tasks Make Light Work", MICCAI 2023, section 2.
    """
    return _deformed(image, sink_radius, rng)


def _deformed(image: Image, new_radius: Radius, rng: np.random.Generator) -> tuple[Image, Image]:
    height, width = image.shape
    deformation = draw_deformation((height, width), rng)
    changed = deform(image, deformation.region, look_up(deformation, new_radius))
    return changed, deformation.region.label((height, width))
