"""What differs between hospitals' scanners: tone, noise, sharpness, shading, side and protocol."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from mediclip.errors import SettingsError
from mediclip.rng import generator
from simulation.phantom.fields import Field, smooth_noise

Laterality = Literal["standard", "mirrored", "mixed"]
Protocol = Literal["t1", "t2", "flair", "mixed"]

_RANGES = {
    "contrast": (0.4, 2.5),
    "brightness": (-1.0, 1.0),
    "noise": (0.0, 5.0),
    "blur": (0.0, 4.0),
    "bias": (0.0, 4.0),
}


@dataclass(frozen=True)
class Scanner:
    """One hospital's scanner and habits; the defaults are a middling one.

    Attributes:
        contrast: Slope of the tone curve at mid grey, in [0.4, 2.5]; 1 leaves the image as it is.
        brightness: Exposure in [-1, 1]; 0 leaves the image as it is, 1 lifts grey x to sqrt(x).
        noise: Noise as a multiple of what is usual for the organ, in [0, 5].
        blur: Standard deviation of the point spread, in pixels of an image of 256, in [0, 4].
        bias: Shading over the field as a multiple of what is usual, in [0, 4].
        laterality: Whether images are stored as usual, mirrored left for right, or either at random.
        protocol: Weighting of a brain scan (other organs ignore it); "mixed" draws one for each scan.

    Raises:
        SettingsError: A setting is outside its range.
    """

    contrast: float = 1.0
    brightness: float = 0.0
    noise: float = 1.0
    blur: float = 0.5
    bias: float = 1.0
    laterality: Laterality = "standard"
    protocol: Protocol = "t1"

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                message = (
                    f"The '{name}' setting of Scanner must be in [{low}, {high}]. Got {value!r} instead."
                )
                raise SettingsError(message)
        for name, choices in (("laterality", get_args(Laterality)), ("protocol", get_args(Protocol))):
            value = getattr(self, name)
            if value not in choices:
                allowed = ", ".join(choices)
                message = f"The '{name}' setting of Scanner must be one of {allowed}. Got {value!r} instead."
                raise SettingsError(message)

    def is_mirrored(self, rng: np.random.Generator) -> bool:
        """Say whether this image is stored left for right; draws one number in any case."""
        flip = bool(rng.integers(2))
        return flip if self.laterality == "mixed" else self.laterality == "mirrored"

    def shading(self, rng: np.random.Generator, size: int) -> Field:
        """Return the slow multiplicative shading of one image, ``(S, S)`` around 1."""
        shading: Field = np.exp(np.float32(0.06 * self.bias) * smooth_noise(rng, size, 2))
        return shading

    def sharpen_or_blur(self, image: Field) -> Field:
        """Blur by the scanner's point spread, which is the same part of the image at every size."""
        sigma = self.blur * image.shape[0] / 256
        return image if sigma == 0 else ndimage.gaussian_filter(image, sigma, mode="nearest")

    def tone(self, image: Field) -> Field:
        """Clip to [0, 1] and apply the tone curve, which keeps 0 and 1 where they are.

        With c the contrast, b the brightness and y = x^(2^-b): y^c / (y^c + (1 - y)^c).
        """
        y = np.clip(image, 0, 1) ** np.float32(2**-self.brightness)
        up, down = y ** np.float32(self.contrast), (1 - y) ** np.float32(self.contrast)
        return up / (up + down)


def draw_scanner(seed: int, site: int | str) -> Scanner:
    """Draw the scanner of one hospital of a simulation: plausible, and different at every site.

    Args:
        seed: The run's seed.
        site: The site's name or number.

    Returns:
        A scanner whose settings stay well inside their ranges; the same for the same arguments.
    """
    rng = generator(seed, "scanner", site)
    return Scanner(
        contrast=math.exp(rng.uniform(-0.3, 0.3)),
        brightness=rng.uniform(-0.3, 0.3),
        noise=math.exp(rng.uniform(-0.6, 0.6)),
        blur=rng.uniform(0.3, 1.1),
        bias=math.exp(rng.uniform(-0.7, 0.7)),
        laterality="mirrored" if rng.random() < 0.25 else "standard",
        protocol=("t1", "t2", "flair")[rng.integers(3)],
    )
