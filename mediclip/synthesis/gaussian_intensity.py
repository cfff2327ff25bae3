"""Gaussian intensity change: a blotchy texture makes a region brighter or darker."""

import numpy as np
from scipy import ndimage

from mediclip.synthesis.shapes import Image, Pair, Region, draw_perlin_region

LOW, HIGH = 0.3, 0.8
TEXTURE_SIGMAS = (4.0, 7.0)
AMPLITUDES = (0.4, 0.6)
EDGE_SIGMAS = (1.0, 4.0)


def draw_texture(image_shape: Pair, rng: np.random.Generator) -> Image:
    """Draw a field of soft blotches.

    White noise thresholded at 0 (half the pixels are 1), smoothed with a Gaussian of σ 4 or 7 pixels, each
    with probability 1/2, then stretched to [0, 1] over the whole image and not only the region, as published.

    Args:
        image_shape: ``(H, W)``.
        rng: Source of the random numbers.

    Returns:
        ``(H, W)`` float32 in [0, 1]; all 0 if the smoothed noise is constant.
    """
    coins = (rng.random(image_shape, np.float32) < 0.5).astype(np.float32)
    field = ndimage.gaussian_filter(coins, rng.choice(TEXTURE_SIGMAS))
    field -= field.min()
    top = field.max()
    texture: Image = field / top if top > 0 else field
    return texture


def add_texture(image: Image, region: Region, texture: Image, amplitude: float, edge_sigma: float) -> Image:
    """Add a texture inside a region, weaker towards its edge.

    Args:
        image: ``(H, W)`` float32 in [0, 1].
        region: Where to add.
        texture: ``(H, W)`` float32 in [0, 1].
        amplitude: Change where texture and weight are 1, in [-1, 1].
        edge_sigma: σ in pixels of the blur that turns the mask into a weight, about 1/2 at its edge. The
            blur reflects at the box, so a mask cut off by its box ends there at full weight, as published.

    Returns:
        ``(H, W)`` float32 clipped to [0, 1]; the same values as before outside the region.
    """
    result = image.copy()
    weight = ndimage.gaussian_filter(region.mask.astype(np.float32), edge_sigma)
    change = np.float32(amplitude) * texture[region.window] * weight
    box = result[region.window]
    box[region.mask] = np.clip(box + change, 0, 1)[region.mask]
    return result


def gaussian_intensity(image: Image, _source: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Brighten or darken a random region by a random texture.

    Args:
        image: ``(H, W)`` float32 in [0, 1].
        _source: Not used.
        rng: Source of the random numbers.

    Returns:
        The changed image ``(H, W)`` float32 in [0, 1], and the region as a label ``(H, W)`` of 0 and 1. Where
        the clipping undoes the change (darker than black) the label stands, as published.

    Source:
        METHOD 1.8 and the code of MediCLIP (arXiv 2405.11315), whose texture follows Hu et al.,
        "Label-Free Liver Tumor Segmentation", CVPR 2023.
    """
    height, width = image.shape
    region = draw_perlin_region((height, width), LOW, HIGH, rng)
    texture = draw_texture((height, width), rng)
    amplitude = rng.uniform(*AMPLITUDES) * rng.choice((-1, 1))
    changed = add_texture(image, region, texture, amplitude, rng.uniform(*EDGE_SIGMAS))
    return changed, region.label((height, width))
