"""Axial brain MR: scalp, skull, folded cortex, ventricles and deep nuclei in T1, T2 or FLAIR weighting.

Body units: x to the image's right, the front of the head up; the head is about 1.5 wide and 1.8 long.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from simulation.phantom.fields import (
    Field,
    Frame,
    Mask,
    Points,
    between,
    blend,
    coverage,
    fractal_noise,
    pick_place,
    rough_ellipse,
    smooth_curve,
    smooth_noise,
)
from simulation.phantom.folds import draw_sulci
from simulation.phantom.scanner import Scanner

# Grey of each tissue by weighting; T1 is after contrast medium, so that vessels and rims of masses shine.
_GREY: Mapping[str, Mapping[str, float]] = MappingProxyType({
    "t1": {"skin": 0.5, "fat": 0.92, "muscle": 0.4, "bone": 0.06, "marrow": 0.42, "csf": 0.13, "grey": 0.4,
           "white": 0.55, "nucleus": 0.46, "vessel": 0.85, "oedema": 0.33, "core": 0.22, "rim": 0.95,
           "spot": 0.92, "blood": 0.9, "clot": 0.5, "cap": 0.0},
    "t2": {"skin": 0.35, "fat": 0.6, "muscle": 0.2, "bone": 0.04, "marrow": 0.25, "csf": 0.88, "grey": 0.46,
           "white": 0.31, "nucleus": 0.36, "vessel": 0.06, "oedema": 0.8, "core": 0.9, "rim": 0.5,
           "spot": 0.88, "blood": 0.1, "clot": 0.62, "cap": 0.1},
    "flair": {"skin": 0.45, "fat": 0.88, "muscle": 0.3, "bone": 0.04, "marrow": 0.3, "csf": 0.06,
              "grey": 0.47, "white": 0.38, "nucleus": 0.43, "vessel": 0.1, "oedema": 0.82, "core": 0.45,
              "rim": 0.72, "spot": 0.9, "blood": 0.12, "clot": 0.75, "cap": 0.14},
})  # fmt: skip


@dataclass(frozen=True)
class Brain:
    """One patient's slice.

    Attributes:
        frame: Where the head lies in the image.
        grey: Grey of each tissue in this scan's weighting.
        signal: ``(S, S)`` grey in [0, 1] before the scanner.
        depth: ``(S, S)`` distance below the brain's surface, positive inside.
        fluid: ``(S, S)`` distance from ventricles, positive outside them.
        white: ``(S, S)`` share of white matter in [0, 1].
    """

    frame: Frame
    grey: Mapping[str, float]
    signal: Field
    depth: Field
    fluid: Field
    white: Field


def draw_brain(rng: np.random.Generator, size: int, scanner: Scanner) -> Brain:
    """Draw a patient's slice: head shape, height of the cut, folding, ventricles and age."""
    weighting = ("t1", "t2", "flair")[rng.integers(3)]
    grey = _GREY[weighting if scanner.protocol == "mixed" else scanner.protocol]
    frame = Frame(
        size,
        angle=rng.normal(0, 0.05),
        shift=(rng.normal(0, 0.02), rng.normal(0, 0.02)),
        zoom=between(rng, 0.94, 1.08),
    )
    height, age = rng.random(), rng.random()
    signal, depth = _head(frame, rng, grey, age)
    sulci, sulcus_rim = draw_sulci(frame, rng, depth, height, age)
    ventricle = _ventricles(frame, rng, height, age)

    pixel = frame.pixel
    inside = coverage(depth, 1.5 * pixel)
    ribbon = between(rng, 0.03, 0.038) * (1 + 0.15 * smooth_noise(rng, size, 16))
    to_fluid = np.minimum(-sulcus_rim, depth)
    white = coverage(to_fluid - ribbon, 2.5 * pixel + 0.012)
    nuclei = _nuclei(frame, rng, height) * (1 - coverage(ventricle, pixel))
    matter = blend(np.full_like(signal, grey["grey"]), grey["white"], white)
    matter = blend(matter, grey["nucleus"], nuclei)
    matter *= 1 + 0.03 * fractal_noise(rng, size, 6, 5, gain=0.8)
    matter += grey["cap"] * age * np.exp(-np.square(np.clip(-ventricle, 0, None) / 0.03))
    brain = blend(matter, grey["csf"], coverage(sulcus_rim, 1.5 * pixel) * sulci)
    brain = _vessels(frame, rng, brain, grey, depth)
    brain = blend(brain, grey["csf"], coverage(ventricle, 1.5 * pixel))
    return Brain(frame, grey, blend(signal, brain, inside), depth, -ventricle, white * inside)


def _head(
    frame: Frame, rng: np.random.Generator, grey: Mapping[str, float], age: float
) -> tuple[Field, Field]:
    """Return the signal of all that lies round the brain and the distance below the brain's surface."""
    half_width, half_length = between(rng, 0.7, 0.79), between(rng, 0.86, 0.94)
    egg = between(rng, 0.02, 0.1)
    theta = np.arctan2(frame.y, frame.x)
    x = frame.x * (1 - egg * frame.y)
    power = between(rng, 2.05, 2.35)
    c, s = np.abs(np.cos(theta)) / half_width, np.abs(np.sin(theta)) / half_length
    radius = (c**power + s**power) ** np.float32(-1 / power)
    for n in (2, 3, 4, 5):
        radius = radius + rng.normal(0, 0.012) / n * np.cos(n * theta + between(rng, 0, 2 * math.pi))
    below = radius - np.hypot(x, frame.y)

    def wave(low: float, high: float) -> Field:
        shift = between(rng, 0, 2 * math.pi)
        return np.float32(0.5 * (low + high)) + np.float32(0.5 * (high - low)) * np.sin(2 * theta + shift)

    temple = sum(np.exp((np.cos(theta - t) - 1) / 0.07) for t in (-0.45, -math.pi + 0.45))
    skin, fat = 0.018, wave(0.02, between(rng, 0.04, 0.075))
    muscle = 0.045 * temple * between(rng, 0.3, 1.2)
    outer, marrow, inner = 0.016, wave(0.012, between(rng, 0.02, 0.045)), 0.018
    gap = 0.012 + 0.022 * age * (0.7 + 0.3 * smooth_noise(rng, frame.size, 6))
    layers: list[tuple[str, Field | float]] = [
        ("skin", skin),
        ("fat", fat),
        ("muscle", muscle),
        ("bone", outer),
    ]
    layers += [("marrow", marrow), ("bone", inner), ("csf", gap)]
    signal: Field = np.zeros_like(below)
    edge: Field = np.zeros_like(below)
    for name, thickness in layers:
        uneven = smooth_noise(rng, frame.size, 32) * (0.06 if name in ("fat", "marrow") else 0.0)
        signal = blend(signal, grey[name] * (1 + uneven), coverage(below - edge, 1.5 * frame.pixel))
        edge = edge + thickness
    return signal, below - edge


def _ventricles(frame: Frame, rng: np.random.Generator, height: float, age: float) -> Field:
    """Return the distance inside the ventricles: horns low down, slender bodies higher up."""
    if height > 0.85:
        return np.full_like(frame.x, -0.5)
    step, swell = 0.8 * frame.pixel, 0.7 + 0.9 * age
    curves: list[Points] = []
    stretch = between(rng, 0.9, 1.1)
    for side in (-1, 1):
        k = swell * between(rng, 0.88, 1.12)
        if height < 0.4:
            front = [
                (0.15, -0.34, 0.008),
                (0.1, -0.28, 0.026 * k),
                (0.055, -0.2, 0.026 * k),
                (0.03, -0.12, 0.01),
            ]
            back = [(0.13, 0.16, 0.01), (0.2, 0.24, 0.028 * k), (0.24, 0.31, 0.035 * k), (0.25, 0.4, 0.01)]
            lines = [front, back]
        else:
            body = [
                (0.15, -0.36, 0.01),
                (0.1, -0.28, 0.034 * k),
                (0.065, -0.16, 0.032 * k),
                (0.065, 0.0, 0.026 * k),
            ]
            body += [(0.1, 0.13, 0.032 * k), (0.17, 0.26, 0.042 * k), (0.22, 0.35, 0.012)]
            if height > 0.65:
                body = [
                    (0.09, -0.26, 0.01),
                    (0.075, -0.1, 0.026 * k),
                    (0.09, 0.06, 0.028 * k),
                    (0.13, 0.2, 0.01),
                ]
            lines = [body]
        wobble = rng.normal(0, 0.008, 2)
        for line in lines:
            control = [(side * (x * stretch) + wobble[0], y * stretch + wobble[1], r) for x, y, r in line]
            curves.append(smooth_curve(control, step))
    if height < 0.4:
        curves.append(smooth_curve([(0, -0.06, 0.006), (0, 0.03, 0.012 * swell), (0, 0.12, 0.007)], step))
    points = np.concatenate(curves)
    distance, index = frame.nearest(points)
    # The nearest point is found by its pixel, which leaves ripples far from the curve: smooth them away.
    return ndimage.gaussian_filter(points[index, 2] - distance, 0.012 / frame.pixel)


def _nuclei(frame: Frame, rng: np.random.Generator, height: float) -> Field:
    """Return the share of deep grey matter: caudate, putamen and thalamus where the cut meets them."""
    share = np.zeros_like(frame.x)
    if height > 0.6:
        return share
    for side in (-1, 1):
        for x, y, across, along, tilt in (
            (0.155, -0.2, 0.04, 0.09, -0.35),
            (0.27, -0.06, 0.055, 0.15, -0.3),
            (0.12, 0.1, 0.075, 0.1, 0.5),
        ):
            centre = (side * (x + rng.normal(0, 0.008)), y + rng.normal(0, 0.01))
            rim = rough_ellipse(frame, rng, centre, (across, along), angle=side * tilt, roughness=0.05)
            share = np.maximum(share, coverage(rim, 0.035))
    return share


def _vessels(
    frame: Frame, rng: np.random.Generator, brain: Field, grey: Mapping[str, float], depth: Field
) -> Field:
    """Add the sagittal sinus at the back and the front and a few small vessels in sulci."""
    width = np.where(frame.y > 0, np.float32(0.034), np.float32(0.018))
    sinus = width - np.abs(frame.x) - 0.6 * np.clip(depth, 0, None)
    brain = blend(brain, grey["vessel"], 0.8 * coverage(sinus, 0.03) * (np.abs(frame.y) > 0.5))
    theta = rng.uniform(0, 2 * math.pi, 14)
    reach = rng.uniform(0.05, 0.75, 14)
    dots = np.stack([reach * np.cos(theta), reach * np.sin(theta)], axis=1).astype(np.float32)
    distance, _ = frame.nearest(dots)
    return blend(brain, grey["vessel"], 0.5 * coverage(0.007 - distance, 0.012))


def _squeeze(brain: Brain, centre: tuple[float, float], radius: float, strength: float) -> Brain:
    """Push tissue away from a growing mass: nothing moves beyond 2.5 radii."""
    frame = brain.frame
    dx, dy = frame.x - centre[0], frame.y - centre[1]
    far = np.clip(np.hypot(dx, dy) / (2.5 * radius), 1e-3, 1)
    pull = np.float32(strength) * np.square(1 - far * far) * coverage(brain.depth, 0.08)
    c, s = math.cos(frame.angle), math.sin(frame.angle)
    row, column = np.indices(far.shape, dtype=np.float32)
    coordinates = [
        row - pull * (s * dx + c * dy) / frame.pixel,
        column - pull * (c * dx - s * dy) / frame.pixel,
    ]
    moved = [
        ndimage.map_coordinates(f, coordinates, order=1, mode="nearest") for f in (brain.signal, brain.white)
    ]
    return replace(brain, signal=moved[0], white=moved[1])


def add_mass(brain: Brain, rng: np.random.Generator) -> tuple[Brain, Mask]:
    """Grow a mass with a shining rim, a dead core and oedema that spreads through white matter."""
    radius = between(rng, 0.1, 0.19)
    room = np.minimum(brain.depth - 0.6 * radius, brain.fluid - 0.5 * radius)
    centre = pick_place(rng, brain.frame, room)
    brain = _squeeze(brain, centre, radius, between(rng, 0.25, 0.5))
    frame, grey = brain.frame, brain.grey
    rim = rough_ellipse(
        frame,
        rng,
        centre,
        (radius * between(rng, 0.8, 1.2), radius),
        angle=between(rng, 0, math.pi),
        roughness=0.14,
    )
    spread = rim + between(rng, 0.35, 0.9) * radius + 0.04 * fractal_noise(rng, frame.size, 10, 3)
    oedema = coverage(spread, 0.05) * (0.25 + 0.75 * brain.white) * coverage(brain.depth, 0.02)
    signal = blend(brain.signal, grey["oedema"], 0.85 * oedema)
    body = coverage(rim, 0.02) * coverage(brain.depth, 0.02)
    uneven = 1 + 0.1 * fractal_noise(rng, frame.size, 14, 3)
    thickness = between(rng, 0.02, 0.05) if rng.random() < 0.65 else radius
    dead = coverage(rim - thickness * (1 + 0.4 * smooth_noise(rng, frame.size, 12)), 0.03)
    shine = grey["white"] + between(rng, 0.55, 1.0) * (grey["rim"] - grey["white"])
    tumour = blend(shine * uneven, grey["core"] * uneven, dead)
    return replace(brain, signal=blend(signal, tumour, body)), (body > 0.5) | (oedema > 0.5)


def add_spots(brain: Brain, rng: np.random.Generator) -> tuple[Brain, Mask]:
    """Put one to three small bright lesions into the brain."""
    signal, mask = brain.signal, np.zeros_like(brain.signal, bool)
    for _ in range(int(rng.integers(1, 4))):
        radius = between(rng, 0.028, 0.055)
        centre = pick_place(rng, brain.frame, np.minimum(brain.depth - 0.06, brain.fluid - radius - 0.03))
        rim = rough_ellipse(
            brain.frame,
            rng,
            centre,
            (radius * between(rng, 0.8, 1.3), radius),
            angle=between(rng, 0, 3),
            roughness=0.1,
        )
        cover = coverage(rim, 0.03)
        signal = blend(signal, brain.grey["spot"], between(rng, 0.6, 0.95) * cover)
        mask |= cover > 0.5
    return replace(brain, signal=signal), mask


def add_haemorrhage(brain: Brain, rng: np.random.Generator) -> tuple[Brain, Mask]:
    """Let blood fill an irregular hole, with clot inside and a thin swollen seam round it."""
    radius = between(rng, 0.09, 0.17)
    centre = pick_place(rng, brain.frame, np.minimum(brain.depth - 0.6 * radius, brain.fluid - 0.6 * radius))
    brain = _squeeze(brain, centre, radius, between(rng, 0.15, 0.35))
    frame, grey = brain.frame, brain.grey
    radii = (radius * between(rng, 1.0, 1.5), radius * between(rng, 0.7, 1.0))
    rim = rough_ellipse(frame, rng, centre, radii, angle=between(rng, 0, math.pi), roughness=0.14)
    rim = rim + 0.015 * fractal_noise(rng, frame.size, 20, 2)
    seam = coverage(rim + 0.035, 0.03) * coverage(brain.depth, 0.02)
    body = coverage(rim, 0.015) * coverage(brain.depth, 0.02)
    clots = coverage(smooth_noise(rng, frame.size, 14) - 0.6, 0.8)
    blood = blend(np.full_like(body, grey["blood"]), grey["clot"], 0.7 * clots)
    signal = blend(blend(brain.signal, grey["oedema"], 0.8 * seam), blood, body)
    return replace(brain, signal=signal), seam > 0.5


FINDINGS: Mapping[str, Callable[[Brain, np.random.Generator], tuple[Brain, Mask]]] = {
    "mass": add_mass,
    "spots": add_spots,
    "haemorrhage": add_haemorrhage,
}


def scan_brain(brain: Brain, scanner: Scanner, rng: np.random.Generator) -> Field:
    """Take the scan: coil shading, blur, and Rician noise as the magnitude of two noisy channels."""
    shading = scanner.shading(rng, brain.frame.size)
    image = scanner.sharpen_or_blur(0.92 * brain.signal * shading * shading)
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(
        0.016 * scanner.noise
    )
    return scanner.tone(np.hypot(image + real, imaginary))
