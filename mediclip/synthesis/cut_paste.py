"""CutPaste: a piece of another normal image, turned and scaled, where it does not belong."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mediclip.synthesis.shapes import Image, Pair, draw_perlin_region, rotation

LOW, HIGH = 0.1, 0.6
MAX_ANGLE = np.pi / 4
SCALE_MEAN = 0.1
MAX_SOURCE_SHARE = 0.8
LABEL_SD = 0.2
GREY_LEVELS = 255


@dataclass(frozen=True)
class View:
    """A rotated and scaled look at a rectangle of the source image.

    Attributes:
        crop: Rows and columns of the source that are looked at.
        matrix: ``(2, 2)``, takes steps in the box that is filled to steps in the crop.
        offset: ``(2,)``, place in the crop of the box's first pixel.
    """

    crop: tuple[slice, slice]
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]


def draw_view(box: Pair, source_shape: Pair, rng: np.random.Generator) -> View:
    """Draw a view that fills a box: rotation U(-45°, 45°), scale 1 + Exp(0.1) or its inverse.

    The scale is reduced until the crop is at most 0.8 of the source along both axes; the crop's place is
    uniform over those where it fits.

    Args:
        box: ``(h, w)`` in pixels.
        source_shape: ``(H, W)``.
        rng: Source of the random numbers.

    Returns:
        The view.
    """
    turn = rotation(rng.uniform(-MAX_ANGLE, MAX_ANGLE))
    scale = 1 + rng.exponential(SCALE_MEAN)
    if rng.random() < 0.5:
        scale = 1 / scale
    low, high = _reach(turn, box)
    scale = min(scale, float(np.min(MAX_SOURCE_SHARE * np.array(source_shape) / (high - low))))
    low, high = _reach(scale * turn, box)
    rows, columns = (int(extent) for extent in high - low)
    row = int(rng.integers(0, source_shape[0] - rows + 1))
    column = int(rng.integers(0, source_shape[1] - columns + 1))
    return View((slice(row, row + rows), slice(column, column + columns)), scale * turn, -low)


def _reach(matrix: NDArray[np.float64], box: Pair) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the whole-pixel bounds ``(2,)`` and ``(2,)`` of a transformed box that starts at the origin."""
    sides = matrix * np.array(box, np.float64)
    return np.floor(np.minimum(sides, 0).sum(axis=1)), np.ceil(np.maximum(sides, 0).sum(axis=1))


def look(source: Image, view: View, mask: NDArray[np.bool_]) -> Image:
    """Sample a view of the source by cubic splines.

    Args:
        source: ``(H, W)`` float32 in [0, 1].
        view: What to look at.
        mask: ``(h, w)``, which pixels of the box are wanted.

    Returns:
        ``(N,)`` float32 for the N true pixels in C order, clipped to the source's own range because splines
        overshoot.
    """
    pixels = np.stack(np.nonzero(mask))
    places = view.matrix @ pixels + view.offset[:, None]
    # Coefficients of the crop alone, mirrored at its edge as in the published code.
    coefficients = ndimage.spline_filter(source[view.crop], order=3, output=np.float32, mode="mirror")
    values = ndimage.map_coordinates(
        coefficients, places, output=np.float32, order=3, mode="mirror", prefilter=False
    )
    clipped: Image = np.clip(values, source.min(), source.max())
    return clipped


def grey_difference(before: Image, after: Image) -> NDArray[np.float64]:
    """Return ``|before - after|`` in whole grey levels of 255, of the same shape.

    The published code works on 8-bit images; without the rounding, ripples of the spline far below one grey
    level would count as anomalies on an even background.
    """
    levels: NDArray[np.float64] = np.rint(GREY_LEVELS * np.abs(after.astype(np.float64) - before))
    return levels


def label_difference(difference: NDArray[np.float64]) -> Image:
    """Turn a change in grey levels into a label.

    ``1 - exp(-d² / (2 · 0.2²))``, which is 1 from two grey levels on, then a grey closing with a 3x3 square,
    then holes are filled: a minimum not connected (over sides and corners) to the border is raised to the
    lowest level of its surroundings at which it would connect.

    Args:
        difference: ``(h, w)``, whole grey levels, at least 0. What lies around counts as unchanged.

    Returns:
        ``(h, w)`` float32 in [0, 1], above 0 wherever the difference is.

    Source:
        Baugh et al., "Many Tasks Make Light Work", MICCAI 2023, section 2 (flipped Gaussian), as used by the
        code of MediCLIP (arXiv 2405.11315). That code closes and fills each connected part of the mask in its
        own bounding box; here the whole box is treated at once.
    """
    soft = (1 - np.exp(-(difference**2) / (2 * LABEL_SD**2))).astype(np.float32)
    closed = ndimage.grey_closing(np.pad(soft, 1), size=(3, 3))
    filled = np.zeros_like(closed)
    # Whole grey levels leave two values above 0, so filling level by level is exact and cheap.
    for level in np.unique(closed[closed > 0]):
        filled[ndimage.binary_fill_holes(closed >= level, np.ones((3, 3), np.bool_))] = level
    return filled[1:-1, 1:-1]


def cut_paste(image: Image, source: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Paste a view of the source into a random region.

    Args:
        image: ``(H, W)`` float32 in [0, 1].
        source: ``(H, W)`` float32 in [0, 1], another normal image; the image itself may be used.
        rng: Source of the random numbers.

    Returns:
        The changed image ``(H, W)`` float32 in [0, 1], and its label ``(H, W)`` float32 in [0, 1] by
        :func:`label_difference`. Pixels that would change by less than half a grey level keep their value.

    Source:
        METHOD 1.8; Li et al., "CutPaste", CVPR 2021, in the form of the code of MediCLIP (arXiv 2405.11315).
    """
    height, width = image.shape
    region = draw_perlin_region((height, width), LOW, HIGH, rng)
    box_height, box_width = region.mask.shape
    view = draw_view((box_height, box_width), (source.shape[0], source.shape[1]), rng)
    box = image[region.window]
    pasted = box.copy()
    pasted[region.mask] = look(source, view, region.mask)
    difference = grey_difference(box, pasted)
    changed, label = image.copy(), np.zeros_like(image)
    changed[region.window] = np.where(difference > 0, pasted, box)
    label[region.window] = label_difference(difference)
    return changed, label
