"""One training example by its number: an image, where it is abnormal, and what it shows."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediclip.rng import generator
from mediclip.synthesis import Mixture
from simulation.phantom import ORGANS, Scanner, draw_phantom
from simulation.pretraining.captions import FOREIGN, TEXTURE
from simulation.pretraining.textures import draw_texture

TEXTURE_SHARE = 0.2
HEALTHY_SHARE = 0.4
SYNTHETIC_SHARE = 0.35
"""Of the ill examples, how many carry a synthesised anomaly in place of a finding."""

_LEAST_SEEN = 0.001  # share of the image

_SYNTHESIS = Mixture(
    {"cut_paste": 2, "gaussian_intensity": 2, "source": 1, "sink": 1, "smooth_intensity": 1},
    second_anomaly=0.3,
)


@dataclass(frozen=True)
class Example:
    """A generated image and what is known of it.

    Attributes:
        image: ``(S, S)`` uint8.
        mask: ``(S, S)`` bool, True where it is abnormal.
        organ: Organ or ``"texture"``.
        finding: Name of the finding, ``"foreign"`` for a synthesised or textural one, None for none.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    organ: str
    finding: str | None


def draw_example(seed: int, index: int, size: int) -> Example:
    """Draw one example; it depends on nothing but its arguments.

    Args:
        seed: Seed of the whole corpus.
        index: Number of the example, at least 0.
        size: Side S in pixels, at least 64.

    Returns:
        The example; where a synthesised anomaly changed too little to be seen it counts as healthy.
    """
    rng = generator(seed, "pretraining", index)
    healthy = bool(rng.random() < HEALTHY_SHARE)
    synthetic = not healthy and bool(rng.random() < SYNTHETIC_SHARE)
    is_texture = bool(rng.random() < TEXTURE_SHARE)
    scanner = _any_scanner(rng)
    finding: str | None
    if is_texture:
        image, mask = draw_texture(rng, size, with_patch=not healthy and not synthetic)
        organ, finding = TEXTURE, FOREIGN if mask.any() else None
    else:
        organ = tuple(ORGANS)[rng.integers(len(ORGANS))]
        wanted = None if healthy or synthetic else "random"
        phantom = draw_phantom(organ, rng, size=size, finding=wanted, scanner=scanner)
        image, mask, finding = phantom.image, phantom.mask, phantom.finding
    if synthetic:
        image, mask = _synthesise(np.asarray(image, np.float32), rng)
        finding = FOREIGN if mask.any() else None
    return Example(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), mask, organ, finding)


def _synthesise(
    image: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    made = _SYNTHESIS.draw(image, image[None], rng)
    seen = (made.label > 0.5) & (np.abs(made.image - image) > 2 / 255)
    # The whole label counts if enough of it shows: a piece of like grey leaves holes in what is seen.
    return made.image, (made.label > 0.5) if seen.mean() > _LEAST_SEEN else np.zeros_like(seen)


def _any_scanner(rng: np.random.Generator) -> Scanner:
    """Draw a scanner from wider ranges than a simulation's sites have."""
    return Scanner(
        contrast=math.exp(rng.uniform(-0.5, 0.5)),
        brightness=rng.uniform(-0.5, 0.5),
        noise=math.exp(rng.uniform(-1.2, 0.9)),
        blur=rng.uniform(0, 1.6),
        bias=math.exp(rng.uniform(-1.0, 1.0)),
        laterality="mixed",
        protocol="mixed",
    )
