"""Smooth intensity change: a region becomes evenly brighter or darker, with a ramp at its edge."""

import numpy as np
from scipy import ndimage

from mediclip.synthesis.shapes import Image, Pair, Region, draw_perlin_region

LOW, HIGH = 0.3, 0.8
SCALE = 30 / 255
GAMMA_SHAPE = 3
RAMP_OFFSET, RAMP_SCALE = 0.02, 0.01


def draw_amplitude(rng: np.random.Generator) -> float:
    """Draw the full change: 15 + Gamma(3, 30) grey levels of 255 with random sign.

    Args:
        rng: Source of the random numbers.

    Returns:
        The change as a share of the grey range, at least 15/255 in size; it may pass 1.
    """
    return float((SCALE / 2 + rng.gamma(GAMMA_SHAPE, SCALE)) * rng.choice((-1, 1)))


def draw_ramp(image_shape: Pair, rng: np.random.Generator) -> float:
    """Draw the width of the ramp: 0.02 + Gamma(3, 0.01) of the shorter image side.

    Args:
        image_shape: ``(H, W)``.
        rng: Source of the random numbers.

    Returns:
        Width in pixels, above 0.
    """
    return float(min(image_shape) * (RAMP_OFFSET + rng.gamma(GAMMA_SHAPE, RAMP_SCALE)))


def add_plateau(image: Image, region: Region, amplitude: float, ramp: float) -> Image:
    """Add a constant inside a region, rising linearly with the distance from the mask's edge.

    Args:
        image: ``(H, W)`` float32 in [0, 1].
        region: Where to add. The box itself is no edge: a mask cut off by it ends at full change, as
            published.
        amplitude: Change on the plateau as a share of the grey range.
        ramp: Pixels from the edge to the plateau; at most the mask's own greatest distance counts, so that
            the plateau is always reached.

    Returns:
        ``(H, W)`` float32, clipped to the image's own darkest and brightest value; the same values as before
        outside the region.
    """
    result = image.copy()
    depth = np.asarray(ndimage.distance_transform_edt(region.mask), np.float32)
    weight = np.minimum(depth / min(ramp, float(depth.max())), 1)
    box = result[region.window]
    changed = np.clip(box + np.float32(amplitude) * weight, image.min(), image.max())
    box[region.mask] = changed[region.mask]
    return result


def smooth_intensity(image: Image, _source: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Brighten or darken a random region evenly.

    METHOD 1.8 names this task without its numbers; the regions here are those of the Gaussian change, and
    the rest is the form of the published code with its scale of 30 grey levels.

    Args:
        image: ``(H, W)`` float32 in [0, 1].
        _source: Not used.
        rng: Source of the random numbers.

    Returns:
        The changed image ``(H, W)`` float32 in [0, 1], and the region as a label ``(H, W)`` of 0 and 1. Where
        the clipping undoes the change (darker than black) the label stands, as published.

    Source:
        Baugh et al., "Many Tasks Make Light Work", MICCAI 2023, section 2, as used by the code of MediCLIP
        (arXiv 2405.11315).
    """
    height, width = image.shape
    region = draw_perlin_region((height, width), LOW, HIGH, rng)
    changed = add_plateau(image, region, draw_amplitude(rng), draw_ramp((height, width), rng))
    return changed, region.label((height, width))
