"""Breast ultrasound: echogenicity of layered tissue in decibels, speckle, attenuation and log compression.

Body units: x across the probe, y the depth, from -1 at the skin to 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from simulation.phantom.fields import (
    Field,
    Frame,
    Mask,
    between,
    blend,
    coverage,
    fractal_noise,
    pick_place,
    rough_ellipse,
    smooth_noise,
)
from simulation.phantom.scanner import Scanner

_DYNAMIC_RANGE_DB = 57.0


@dataclass(frozen=True)
class Breast:
    """One patient's section.

    Attributes:
        frame: The image's coordinates; the probe lies along its upper edge.
        echo_db: ``(S, S)`` echogenicity in decibels below the brightest.
        shadow_db: ``(S, S)`` what the tissue above takes from the echo at each place, in decibels.
        gland: ``(S, S)`` room for a finding in body units, positive in gland that the beam still reaches.
    """

    frame: Frame
    echo_db: Field
    shadow_db: Field
    gland: Field


def _boundary(rng: np.random.Generator, frame: Frame, depth: float, swing: float, cells: int) -> Field:
    """Return the signed depth below a wavy layer boundary, ``(S, S)``, positive below."""
    tilt, bow = rng.normal(0, 0.5 * swing), rng.normal(0, 0.6 * swing)
    wave = smooth_noise(rng, frame.size, cells, 1)
    return frame.y - (depth + tilt * frame.x + bow * np.square(frame.x) + swing * 0.6 * wave)


def _strands(field: Field, width: float, pixel: float) -> Field:
    """Return fibres along the zero crossings of a field, in [0, 1]: bright where they face the probe."""
    down, across = np.gradient(field, pixel)
    slope = np.hypot(down, across) + 1e-3
    fibres: Field = np.exp(-np.square(field / slope / width)) * np.square(down / slope)
    return fibres


def _streaks(rng: np.random.Generator, size: int) -> Field:
    """Return the unevenness of tissue that lies in sheets, coarse and fine, of unit variance."""
    return fractal_noise(rng, size, 5, 4, gain=0.85, stretch=2.5)


def _slant(rng: np.random.Generator, frame: Frame, echo: Field) -> Field:
    """Tilt and bend the sheets of tissue, more so away from the skin."""
    lift = 0.05 * smooth_noise(rng, frame.size, 3) + frame.x * rng.normal(0, 0.1)
    lift *= coverage(frame.y + 0.65, 0.5)
    row, column = np.indices(echo.shape, dtype=np.float32)
    moved: Field = ndimage.map_coordinates(echo, [row + lift / frame.pixel, column], order=1, mode="nearest")
    return moved


def draw_breast(rng: np.random.Generator, size: int, scanner: Scanner) -> Breast:  # noqa: ARG001
    """Draw a patient: the depth of each layer, how much gland and how much fat, and the muscle behind."""
    frame = Frame(size)
    pixel = frame.pixel
    skin = _boundary(rng, frame, between(rng, -0.96, -0.91), 0.01, 3)
    fat_end = _boundary(rng, frame, between(rng, -0.75, -0.4), 0.12, 3)
    gland_end = _boundary(rng, frame, between(rng, 0.0, 0.45), 0.1, 2)
    muscle = _boundary(rng, frame, between(rng, 0.45, 0.7), 0.07, 2)
    chest_wall = _boundary(rng, frame, between(rng, 0.82, 1.3), 0.08, 2)
    fatty = rng.random()

    fat = -34 + 4.0 * _streaks(rng, size)
    septa = _strands(smooth_noise(rng, size, 3, 8) + 0.25 * smooth_noise(rng, size, 8, 16), 0.013, pixel)
    fat = fat + 21 * septa * np.clip(smooth_noise(rng, size, 5) + 0.7, 0, 1.2)

    lobules = fractal_noise(rng, size, 8, 3, gain=0.8, stretch=1.6)
    ducts = coverage(lobules - between(rng, 0.3, 0.9), 0.9)
    gland = -17 + 5.0 * _streaks(rng, size) - (5 + 11 * fatty) * ducts
    fibres = _strands(smooth_noise(rng, size, 4, 16) + 0.4 * smooth_noise(rng, size, 10, 20), 0.011, pixel)
    gland = gland + 13 * fibres * np.clip(smooth_noise(rng, size, 5) + 0.3 + 0.6 * fatty, 0, 1.2)

    behind = -35 + 5.0 * _streaks(rng, size)
    sheets = _strands(smooth_noise(rng, size, 2, 12) + 0.2 * smooth_noise(rng, size, 8, 16), 0.011, pixel)
    behind = behind + 14 * sheets * np.clip(smooth_noise(rng, size, 4) + 0.6, 0, 1)
    grain = smooth_noise(rng, size, 2, 24) + 0.25 * smooth_noise(rng, size, 8, 24)
    striae = -38 + 4.5 * _streaks(rng, size)
    striae = striae + 15 * _strands(grain, 0.011, pixel) * np.clip(smooth_noise(rng, size, 4) + 0.6, 0, 1)

    echo = blend(fat, gland, coverage(fat_end + 0.06 * lobules, 0.05))
    echo = blend(echo, behind, coverage(gland_end + 0.07 * lobules, 0.12))
    echo = blend(echo, striae, coverage(muscle, 0.04))
    for sheet, level in ((fat_end, -14.0), (muscle, -14.0), (chest_wall, -4.0)):
        broken = np.clip(0.4 + 0.6 * smooth_noise(rng, size, 4), 0, 1)
        echo = blend(echo, level, coverage(0.011 - np.abs(sheet), 0.02) * broken)
    echo = echo - 20 * coverage(chest_wall - 0.06, 0.1)
    echo = _slant(rng, frame, echo)
    gel = -20.0 + 10 * coverage(0.01 - np.abs(skin), 0.015) + 4 * coverage(-0.975 - frame.y, 0.02)
    echo = blend(gel, echo, coverage(skin, 0.025))

    depth = 0.5 * (frame.y + 1)
    shadow = between(rng, 8, 42) * np.clip(depth - 0.1, 0, None) ** 1.2
    shadow = shadow + _columns(rng, frame)
    layer = np.minimum(np.minimum(fat_end + 0.1, 0.05 - gland_end), (14 - shadow) / 40)
    return Breast(frame, echo.astype(np.float32), shadow.astype(np.float32), layer)


def _columns(rng: np.random.Generator, frame: Frame) -> Field:
    """Return shadows in decibels of poor contact and of the ligaments: columns that fade in with depth."""
    total = np.zeros_like(frame.x)
    for _ in range(int(rng.integers(0, 4))):
        centre = between(rng, -1, 1) + 0.04 * (frame.y + 1) * rng.normal()
        column = np.exp(-np.square((frame.x - centre) / between(rng, 0.05, 0.14)))
        total += between(rng, 2, 8) * column * coverage(frame.y - between(rng, -0.9, -0.3), 0.3)
    for side in (-1, 1):
        total += max(0.0, rng.normal(-3, 8)) * coverage(side * frame.x - 0.92, between(rng, 0.2, 0.5))
    return total


def _below(rim: Field) -> Field:
    """Return how much of a lesion the beam has crossed on its way to each place.

    Args:
        rim: ``(S, S)`` signed distance, positive inside.

    Returns:
        ``(S, S)`` float32 in [0, 1]: 1 below the lesion's thickest column.
    """
    crossed = np.cumsum(coverage(rim, 0.03), axis=0)
    return (crossed / max(float(crossed.max()), 1.0)).astype(np.float32)


def add_mass(breast: Breast, rng: np.random.Generator) -> tuple[Breast, Mask]:
    """Grow a dark mass with an irregular margin, a bright halo and a shadow behind it."""
    frame = breast.frame
    radii = (between(rng, 0.13, 0.26), between(rng, 0.12, 0.24))
    centre = pick_place(rng, frame, np.minimum(breast.gland - 0.6 * radii[1], 0.85 - np.abs(frame.x)))
    rim = rough_ellipse(
        frame,
        rng,
        centre,
        radii,
        angle=rng.normal(0, 0.3),
        roughness=between(rng, 0.1, 0.2),
        harmonics=range(2, 13),
    )
    rim = rim + 0.015 * fractal_noise(rng, frame.size, 16, 3)
    halo = coverage(rim + 0.06, 0.1)
    inside = -43 + between(rng, -3, 4) + 3 * fractal_noise(rng, frame.size, 10, 3)
    echo = blend(breast.echo_db + 4 * halo, inside, coverage(rim, 0.06))
    behind = ndimage.gaussian_filter(_below(rim), 0.03 / frame.pixel) * (1 - coverage(rim, 0.03))
    shadow = breast.shadow_db + between(rng, 5, 16) * behind * coverage(frame.y - centre[1], 0.3)
    return replace(breast, echo_db=echo, shadow_db=shadow), rim > 0


def add_cyst(breast: Breast, rng: np.random.Generator) -> tuple[Breast, Mask]:
    """Fill a smooth, round space with fluid: no echo inside, brighter behind, thin shadows at its sides."""
    frame = breast.frame
    radii = (between(rng, 0.1, 0.24), between(rng, 0.08, 0.18))
    centre = pick_place(rng, frame, np.minimum(breast.gland - 0.6 * radii[1], 0.85 - np.abs(frame.x)))
    rim = rough_ellipse(
        frame, rng, centre, radii, angle=rng.normal(0, 0.2), roughness=0.05, harmonics=(2, 3, 4)
    )
    facing = np.abs(frame.y - centre[1]) / (np.hypot(frame.x - centre[0], frame.y - centre[1]) + 0.02)
    wall = np.exp(-np.square((rim + 0.008) / 0.014)) * (0.3 + 0.7 * facing)
    echo = breast.echo_db + 8 * wall
    echo = blend(echo, -62.0, coverage(rim - 0.008, 0.03))
    behind = ndimage.gaussian_filter(_below(rim), 0.03 / frame.pixel) * (1 - coverage(rim, 0.02))
    under = coverage(frame.y - centre[1], 0.3)
    edges = sum(
        np.exp(-np.square((frame.x - centre[0] - side * radii[0] * 1.02) / 0.03))
        * coverage(frame.y - centre[1], 0.2)
        for side in (-1, 1)
    )
    shadow = breast.shadow_db - between(rng, 4, 9) * behind * under + between(rng, 2, 5) * edges
    return replace(breast, echo_db=echo, shadow_db=shadow.astype(np.float32)), rim > 0


FINDINGS: Mapping[str, Callable[[Breast, np.random.Generator], tuple[Breast, Mask]]] = {
    "mass": add_mass,
    "cyst": add_cyst,
}


def _speckle(rng: np.random.Generator, size: int, sharpness: float, looks: int = 3) -> Field:
    """Return the amplitude of speckle, ``(S, S)`` with unit mean square.

    Many scatterers in each cell of the point spread add up to complex Gaussian noise; the power of several
    looks from different angles is averaged, as compounding scanners do. The spread is longer across than
    along the beam, the more so the deeper.
    """
    across, along = 1.5 * sharpness * size / 256, 0.75 * sharpness * size / 256
    noise = rng.standard_normal((2 * looks, size, size), dtype=np.float32)
    near = ndimage.gaussian_filter(noise, (0, along, across), mode="wrap")
    far = ndimage.gaussian_filter(near, (0, 0.8 * along, 1.8 * across), mode="wrap")
    power = blend(
        np.square(near).sum(axis=0) / np.square(near).sum(axis=0).mean(),
        np.square(far).sum(axis=0) / np.square(far).sum(axis=0).mean(),
        np.linspace(0, 1, size, dtype=np.float32)[:, None],
    )
    return np.sqrt(power)


def scan_breast(breast: Breast, scanner: Scanner, rng: np.random.Generator) -> Field:
    """Take the image: speckle, attenuation, electronic noise that grows with the gain, log compression."""
    size = breast.frame.size
    gain = 24 * np.log10(scanner.shading(rng, size)) + rng.normal(-3, 2.5)
    level = breast.echo_db - breast.shadow_db + gain
    amplitude = _speckle(rng, size, 0.8 + 0.4 * scanner.blur) * np.power(np.float32(10), level / 20)
    floor = np.float32(0.0008 * scanner.noise) * _speckle(rng, size, 0.8, looks=2)
    floor *= 1 + 2 * np.linspace(0, 1, size, dtype=np.float32)[:, None]
    decibel = 20 * np.log10(amplitude + floor + np.float32(1e-4))
    return scanner.tone(1 + decibel / np.float32(_DYNAMIC_RANGE_DB))
