"""Axial CT of the upper abdomen after contrast medium, in a soft-tissue window.

Body units: x to the image's right, which is the patient's left; y down, the spine at the lower side.
"""

import math
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
    wandering_curves,
)
from simulation.phantom.scanner import Scanner

# Typical Hounsfield units in the portal-venous phase.
_AIR, _FAT, _FLUID, _MUSCLE, _BOWEL, _SPLEEN, _LIVER, _KIDNEY, _VESSEL = (
    -1000, -100, 8, 58, 45, 115, 105, 165, 155,
)  # fmt: skip
_CORTEX, _MARROW = 480, 190
WINDOW = (-160.0, 240.0)
"""Lowest and highest Hounsfield unit that the image tells apart: the usual soft-tissue window."""


@dataclass(frozen=True)
class Abdomen:
    """One patient's slice.

    Attributes:
        frame: Where the body lies in the image.
        hu: ``(S, S)`` Hounsfield units before the scanner.
        cavity: ``(S, S)`` signed distance from the rim of the peritoneal cavity, positive inside.
        liver: The same for the liver.
        kidneys: The same for the nearer kidney.
        fluid_room: ``(S, S)`` share in [0, 1] of what is fat inside the cavity, where fluid can gather.
    """

    frame: Frame
    hu: Field
    cavity: Field
    liver: Field
    kidneys: Field
    fluid_room: Field


def draw_abdomen(rng: np.random.Generator, size: int, scanner: Scanner) -> Abdomen:  # noqa: ARG001
    """Draw a patient: girth, fat, the height of the cut, organs and what is in the bowel."""
    frame = Frame(
        size,
        angle=rng.normal(0, 0.03),
        shift=(rng.normal(0, 0.02), rng.normal(0, 0.02)),
        zoom=between(rng, 0.92, 1.05),
    )
    pixel = frame.pixel
    width, depth = between(rng, 0.8, 0.93), between(rng, 0.58, 0.74)
    padding = between(rng, 0.04, 0.15)
    skin = rough_ellipse(frame, rng, (0, 0), (width, depth), roughness=0.01, harmonics=(2, 3, 4))
    wall = skin - padding * (1 + 0.4 * np.clip(frame.y / depth, -0.6, 1))
    cavity = wall - between(rng, 0.05, 0.075)

    fat_texture = 10 * fractal_noise(rng, size, 8, 4)
    hu = np.full((size, size), _AIR, np.float32)
    hu = blend(hu, _FAT + fat_texture, coverage(skin, 1.5 * pixel))
    hu = blend(hu, 20.0, coverage(0.006 - np.abs(skin - 0.006), 1.5 * pixel))
    hu = blend(hu, _MUSCLE + 6 * fractal_noise(rng, size, 16, 3), coverage(wall, 2 * pixel))
    hu = blend(hu, _FAT + fat_texture, coverage(cavity, 2 * pixel))
    hu = _ribs(frame, rng, hu, wall)

    hu, spine_top = _spine(frame, rng, hu, depth)
    within = coverage(cavity - 0.01, 2 * pixel)
    hu = _bowel(frame, rng, hu, within, (width, depth))
    liver = _liver(frame, rng, cavity, (width, depth))
    hu = blend(hu, _vascular(frame, rng, liver), coverage(liver, 2 * pixel))
    spleen = _spleen(frame, rng, cavity, (width, depth))
    hu = blend(hu, _SPLEEN + 6 * fractal_noise(rng, size, 10, 3), coverage(spleen, 2 * pixel))
    hu, kidneys = _kidneys(frame, rng, hu, spine_top)
    hu = _great_vessels(frame, rng, hu, spine_top)
    is_fat = coverage(_FAT + 60 - hu, 60.0) * coverage(cavity - 0.01, 0.02)
    return Abdomen(frame, hu.astype(np.float32), cavity, liver, kidneys, is_fat)


def _ribs(frame: Frame, rng: np.random.Generator, hu: Field, wall: Field) -> Field:
    """Cut the ribs, which cross the slice as short bright ovals inside the muscle."""
    middle = np.abs(wall - 0.03)
    start, gap = between(rng, 0, 0.5), between(rng, 0.42, 0.62)
    angle = np.arctan2(frame.y, frame.x)
    for theta in start + np.arange(0, 2 * math.pi - 0.3, gap):
        if -2.2 < (theta % (2 * math.pi)) - 2 * math.pi < -0.9:
            continue  # no ribs in front
        off = np.angle(np.exp(1j * (angle - theta))).astype(np.float32) * np.hypot(frame.x, frame.y)
        rim = 0.018 - np.hypot(middle, off * between(rng, 0.3, 0.6))
        hu = blend(hu, _MARROW + 60, coverage(rim, 0.008))
        hu = blend(hu, _CORTEX, coverage(0.004 - np.abs(rim - 0.004), 0.006))
    return hu


def _spine(frame: Frame, rng: np.random.Generator, hu: Field, depth: float) -> tuple[Field, float]:
    """Put in vertebra, canal and back muscles; return also the height of the vertebra's front edge."""
    y = 0.42 * depth + between(rng, 0.0, 0.05)
    pixel = frame.pixel
    for side in (-1, 1):
        back = rough_ellipse(frame, rng, (side * 0.17, y + 0.24), (0.15, 0.1), roughness=0.05)
        psoas = rough_ellipse(frame, rng, (side * 0.19, y + 0.03), (0.06, 0.075), roughness=0.05)
        hu = blend(hu, _MUSCLE, coverage(np.maximum(back, psoas), 0.015))
    radius = between(rng, 0.115, 0.135)
    body = rough_ellipse(frame, rng, (0, y), (radius * 1.15, radius), roughness=0.02)
    arch = rough_ellipse(frame, rng, (0, y + 0.17), (0.1, 0.085), roughness=0.04)
    process = rough_ellipse(frame, rng, (0, y + 0.3), (0.018, 0.09))
    wings = 0.022 - np.abs(frame.y - (y + 0.15) - 0.25 * np.abs(frame.x))
    wings = np.minimum(wings, 0.27 - np.abs(frame.x))
    bone = np.maximum(np.maximum(body, arch), np.maximum(process, wings))
    spongy = _MARROW + 45 * fractal_noise(rng, frame.size, 24, 3)
    hu = blend(hu, spongy, coverage(bone, 2 * pixel))
    hu = blend(hu, _CORTEX, 0.8 * coverage(0.008 - np.abs(bone - 0.007), 0.01))
    canal = rough_ellipse(frame, rng, (0, y + 0.165), (0.062, 0.05))
    return blend(hu, 35.0, coverage(canal, 0.012)), y - radius


def _liver(frame: Frame, rng: np.random.Generator, cavity: Field, girth: tuple[float, float]) -> Field:
    """Return the signed distance from the liver's rim: it fills the patient's right and reaches across."""
    width, depth = girth
    right = rough_ellipse(
        frame, rng, (-0.47 * width, -0.02), (0.42 * width, 0.62 * depth), roughness=0.05, angle=0.15
    )
    reach = between(rng, -0.1, 0.15)
    left = rough_ellipse(
        frame, rng, (reach - 0.15, -0.52 * depth), (0.36, 0.2), roughness=0.06, angle=between(rng, -0.2, 0.1)
    )
    whole = ndimage.gaussian_filter(np.maximum(right, left), 0.02 / frame.pixel)
    inside: Field = np.minimum(whole, cavity - 0.012)
    return inside


def _vascular(frame: Frame, rng: np.random.Generator, liver: Field) -> Field:
    """Return the liver's density: its parenchyma and the veins that branch in it."""
    tissue = _LIVER + rng.normal(0, 8) + 5 * fractal_noise(rng, frame.size, 12, 4)
    root = (-0.3 + rng.normal(0, 0.03), -0.08 + rng.normal(0, 0.03))
    count = 9
    headings = math.pi + rng.uniform(-1.7, 1.7, count)
    walks = wandering_curves(
        rng,
        np.tile(root, (count, 1)),
        headings,
        rng.uniform(0.15, 0.5, count),
        bend=0.9,
        step=0.8 * frame.pixel,
    )
    taper = np.linspace(0.024, 0.007, walks.shape[1], dtype=np.float32)
    points = np.concatenate([walks, np.broadcast_to(taper[None, :, None], (*walks.shape[:2], 1))], axis=2)
    points = points.reshape(-1, 3)
    distance, index = frame.nearest(points)
    vein = coverage(points[index, 2] - distance, 0.015) * coverage(liver - 0.02, 0.02)
    return blend(tissue, _VESSEL - 5, 0.75 * vein)


def _spleen(frame: Frame, rng: np.random.Generator, cavity: Field, girth: tuple[float, float]) -> Field:
    """Return the signed distance from the spleen's rim, a crescent at the patient's left and back."""
    width, depth = girth
    whole = rough_ellipse(
        frame,
        rng,
        (0.66 * width, 0.12 * depth),
        (between(rng, 0.13, 0.2), between(rng, 0.24, 0.38)),
        angle=between(rng, -0.1, 0.35),
        roughness=0.06,
    )
    hilum = rough_ellipse(frame, rng, (0.42 * width, 0.08), (0.16, 0.2), roughness=0.1)
    inside: Field = np.minimum(np.minimum(whole, cavity - 0.012), -hilum)
    return inside


def _kidneys(frame: Frame, rng: np.random.Generator, hu: Field, spine_top: float) -> tuple[Field, Field]:
    """Lay a kidney in fat at either side of the spine; return also the distance inside the nearer one."""
    nearest = np.full_like(hu, -1.0)
    for side in (-1, 1):
        centre = (side * between(rng, 0.37, 0.43), spine_top + between(rng, 0.1, 0.17))
        radii = (between(rng, 0.1, 0.13), between(rng, 0.13, 0.17))
        tilt = side * between(rng, 0.1, 0.5)
        rim = rough_ellipse(frame, rng, centre, radii, angle=tilt, roughness=0.03)
        sinus = rough_ellipse(
            frame, rng, (centre[0] - side * 0.055, centre[1] - 0.01), (0.05, 0.06), angle=tilt, roughness=0.15
        )
        hu = blend(hu, _FAT, coverage(rim + 0.035, 0.04))
        medulla = coverage(rim - 0.035 - 0.02 * smooth_noise(rng, frame.size, 20), 0.03)
        tissue = _KIDNEY + 15 - 45 * medulla
        hu = blend(hu, tissue, coverage(rim, 2 * frame.pixel))
        hu = blend(hu, _FAT + 50, 0.9 * coverage(sinus, 0.03))
        nearest = np.maximum(nearest, np.minimum(rim, -sinus))
    return hu, nearest.astype(np.float32)


def _great_vessels(frame: Frame, rng: np.random.Generator, hu: Field, spine_top: float) -> Field:
    """Put aorta and inferior vena cava in front of the spine."""
    for x, radius, value in ((0.05, between(rng, 0.042, 0.055), _VESSEL + 15), (-0.1, 0.055, _VESSEL - 15)):
        centre = (x + rng.normal(0, 0.012), spine_top - radius - 0.005)
        flat = 1.0 if x > 0 else between(rng, 0.6, 0.95)
        rim = rough_ellipse(frame, rng, centre, (radius, radius * flat))
        hu = blend(hu, value, coverage(rim, 0.012))
    return hu


def _bowel(
    frame: Frame, rng: np.random.Generator, hu: Field, within: Field, girth: tuple[float, float]
) -> Field:
    """Fill the front and the patient's left with stomach and loops, some with gas that rises."""
    width, depth = girth
    loops = [((0.38 * width, -0.42 * depth), (between(rng, 0.18, 0.28), between(rng, 0.14, 0.22)))]
    for _ in range(int(rng.integers(6, 11))):
        place = (between(rng, -0.15, 0.7) * width, between(rng, -0.5, 0.25) * depth)
        loops.append((place, (between(rng, 0.06, 0.12), between(rng, 0.05, 0.1))))
    for centre, radii in loops:
        rim = rough_ellipse(frame, rng, centre, radii, angle=between(rng, 0, 3), roughness=0.08)
        content = between(rng, 5, 50) + 12 * fractal_noise(rng, frame.size, 14, 2)
        hu = blend(hu, _BOWEL + 35, coverage(rim, 0.015) * within)
        inside = coverage(rim - 0.018, 0.015) * within
        hu = blend(hu, content, inside)
        if rng.random() < 0.45:
            level = centre[1] - between(rng, -0.2, 0.6) * radii[1]
            hu = blend(hu, _AIR, inside * coverage(level - frame.y, 0.008))
    return hu


def add_mass(abdomen: Abdomen, rng: np.random.Generator) -> tuple[Abdomen, Mask]:
    """Grow one to three masses in the liver that take up less contrast medium, the larger with a rim."""
    hu, mask = abdomen.hu, np.zeros(abdomen.hu.shape, np.bool_)
    frame = abdomen.frame
    for _ in range(int(rng.choice((1, 1, 2, 3)))):
        radius = between(rng, 0.05, 0.12)
        centre = pick_place(rng, frame, abdomen.liver - 0.9 * radius)
        rim = rough_ellipse(
            frame, rng, centre, (radius * between(rng, 0.85, 1.2), radius), roughness=between(rng, 0.05, 0.15)
        )
        rim = np.minimum(rim, abdomen.liver - 0.004)
        core = between(rng, 30, 62) + 8 * fractal_noise(rng, frame.size, 16, 2)
        hu = blend(hu, core, coverage(rim, 0.025))
        hu = blend(hu, _LIVER + 45, between(rng, 0, 0.8) * coverage(0.008 - np.abs(rim), 0.015))
        mask |= rim > 0
    return replace(abdomen, hu=hu), mask


def add_cyst(abdomen: Abdomen, rng: np.random.Generator) -> tuple[Abdomen, Mask]:
    """Let a thin-walled cyst bulge from a kidney or lie in the liver."""
    frame = abdomen.frame
    radius = between(rng, 0.05, 0.1)
    room = abdomen.kidneys - 0.01 if rng.random() < 0.5 else abdomen.liver - 1.1 * radius
    centre = pick_place(rng, frame, room)
    rim = rough_ellipse(frame, rng, centre, (radius, radius * between(rng, 0.85, 1.1)), roughness=0.02)
    rim = np.minimum(rim, abdomen.cavity - 0.005)
    hu = blend(abdomen.hu, _FLUID + 3 * smooth_noise(rng, frame.size, 12), coverage(rim, 0.012))
    return replace(abdomen, hu=hu.astype(np.float32)), rim > 0


def add_calcification(abdomen: Abdomen, rng: np.random.Generator) -> tuple[Abdomen, Mask]:
    """Leave two to five stones or scars as dense as bone in liver and kidneys."""
    frame, hu, mask = abdomen.frame, abdomen.hu, np.zeros(abdomen.hu.shape, np.bool_)
    for _ in range(int(rng.integers(2, 6))):
        radius = between(rng, 0.018, 0.036)
        room = np.maximum(abdomen.kidneys, abdomen.liver) - 1.2 * radius
        rim = rough_ellipse(
            frame,
            rng,
            pick_place(rng, frame, room),
            (radius * between(rng, 0.8, 1.5), radius),
            roughness=0.15,
        )
        hu = blend(hu, between(rng, 300, 700), coverage(rim, 0.015))
        mask |= rim > 0
    return replace(abdomen, hu=hu), mask


def add_fluid(abdomen: Abdomen, rng: np.random.Generator) -> tuple[Abdomen, Mask]:
    """Let free fluid replace the fat between the organs on one flank."""
    frame = abdomen.frame
    side = float(rng.choice((-1, 1)))
    edge = side * frame.x - between(rng, 0.3, 0.45) + 0.05 * smooth_noise(rng, frame.size, 6)
    pool = coverage(edge, 0.04) * coverage(frame.y + between(rng, 0.1, 0.4), 0.1)
    rind = coverage(between(rng, 0.05, 0.09) - abdomen.cavity, 0.02) * coverage(abdomen.cavity - 0.005, 0.01)
    cover = np.maximum(pool * abdomen.fluid_room, rind * pool)
    hu = blend(abdomen.hu, _FLUID + 8, cover)
    return replace(abdomen, hu=hu), cover > 0.5


FINDINGS: Mapping[str, Callable[[Abdomen, np.random.Generator], tuple[Abdomen, Mask]]] = {
    "mass": add_mass,
    "cyst": add_cyst,
    "calcification": add_calcification,
    "fluid": add_fluid,
}


def scan_abdomen(abdomen: Abdomen, scanner: Scanner, rng: np.random.Generator) -> Field:
    """Take the slice: blur, noise whose grain is as wide as the kernel, and the window."""
    size = abdomen.frame.size
    hu = scanner.sharpen_or_blur(abdomen.hu)
    grain = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), 0.6 * size / 256)
    grain /= max(float(grain.std()), 1e-6)
    drift = 12 * np.log(scanner.shading(rng, size)) / 0.06
    low, high = WINDOW
    return scanner.tone((hu + 11 * scanner.noise * grain + drift - low) / np.float32(high - low))
