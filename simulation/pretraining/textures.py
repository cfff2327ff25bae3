"""Unspecific grey images: dead leaves, fractal noise, ridges and gratings, with a foreign patch or without.

They keep the backbone from knowing nothing but the organs of the phantoms. Dead leaves: Lee, Mumford and
Huang, "Occlusion models for natural images" (2001); as training images: Baradad et al., arXiv 2106.05963.
"""

import math
from collections.abc import Callable

import numpy as np

from simulation.phantom.fields import (
    Field,
    Frame,
    Mask,
    between,
    blend,
    coverage,
    fractal_noise,
    rough_ellipse,
    smooth_noise,
)

Draw = Callable[[np.random.Generator, Frame], Field]


def _dead_leaves(rng: np.random.Generator, frame: Frame) -> Field:
    """Drop shapes on each other until nothing of the ground is seen; sizes follow a power law."""
    image = np.full((frame.size, frame.size), rng.random(), np.float32)
    smallest, grain = between(rng, 0.03, 0.12), between(rng, 0, 0.12)
    for _ in range(int(rng.integers(40, 110))):
        radius = min(0.9, smallest * rng.random() ** (-1 / 1.8))
        rim = rough_ellipse(
            frame,
            rng,
            (between(rng, -1, 1), between(rng, -1, 1)),
            (radius * between(rng, 0.4, 1), radius),
            angle=between(rng, 0, math.pi),
            roughness=between(rng, 0, 0.15),
            harmonics=(2, 3, 5),
        )
        image = blend(image, rng.random(), coverage(rim, 1.5 * frame.pixel))
    return image + grain * fractal_noise(rng, frame.size, int(rng.integers(4, 30)), 3)


def _clouds(rng: np.random.Generator, frame: Frame) -> Field:
    """Fractal noise, from smoke to sand."""
    noise = fractal_noise(
        rng,
        frame.size,
        int(rng.integers(2, 12)),
        int(rng.integers(2, 5)),
        gain=between(rng, 0.4, 0.95),
        stretch=math.exp(rng.uniform(-1, 1)),
    )
    return 0.5 + between(rng, 0.08, 0.22) * noise


def _ridges(rng: np.random.Generator, frame: Frame) -> Field:
    """Bright or dark lines along the zero crossings of smooth noise, like fibres, vessels or cracks."""
    noise = fractal_noise(rng, frame.size, int(rng.integers(3, 14)), 2, gain=between(rng, 0.2, 0.6))
    lines = np.exp(-np.square(noise / between(rng, 0.08, 0.4)))
    ground = between(rng, 0.2, 0.8) + 0.06 * fractal_noise(rng, frame.size, 4, 3)
    drawn: Field = ground + between(rng, 0.2, 0.5) * float(rng.choice((-1, 1))) * lines
    return drawn


def _grating(rng: np.random.Generator, frame: Frame) -> Field:
    """Waves of one direction or two, bent by smooth noise."""
    total: Field = np.full((frame.size, frame.size), 0.5, np.float32)
    for _ in range(int(rng.integers(1, 3))):
        angle, waves = between(rng, 0, math.pi), between(rng, 6, 34)
        along = math.cos(angle) * frame.x + math.sin(angle) * frame.y
        phase = between(rng, 0, 1.5) * smooth_noise(rng, frame.size, 3)
        total = total + between(rng, 0.08, 0.25) * np.sin(waves * along + phase)
    return total + between(rng, 0, 0.08) * fractal_noise(rng, frame.size, 10, 3)


KINDS: tuple[Draw, ...] = (_dead_leaves, _clouds, _ridges, _grating)


def draw_texture(rng: np.random.Generator, size: int, *, with_patch: bool) -> tuple[Field, Mask]:
    """Draw a texture, and in it one to three patches of other texture or brightness if asked.

    Args:
        rng: Source of randomness.
        size: Side S in pixels.
        with_patch: Whether it has patches.

    Returns:
        ``(S, S)`` float32 in [0, 1] and where the patches are, ``(S, S)`` bool.
    """
    frame = Frame(size)
    image = KINDS[rng.integers(len(KINDS))](rng, frame)
    cover = np.zeros((size, size), np.float32)
    if with_patch:
        foreign = KINDS[rng.integers(len(KINDS))](rng, frame)
        if rng.random() < 0.6:
            foreign = image * between(rng, 0.3, 0.8) + between(rng, -0.3, 0.8)
        for _ in range(int(rng.choice((1, 1, 2, 3)))):
            radius = between(rng, 0.06, 0.3)
            rim = rough_ellipse(
                frame,
                rng,
                (between(rng, -0.85, 0.85), between(rng, -0.85, 0.85)),
                (radius * between(rng, 0.5, 1.2), radius),
                angle=between(rng, 0, math.pi),
                roughness=between(rng, 0, 0.2),
            )
            cover = np.maximum(cover, coverage(rim, between(rng, 0.015, 0.08)))
        image = blend(image, foreign, cover)
    return np.clip(image, 0, 1).astype(np.float32), cover > 0.5
