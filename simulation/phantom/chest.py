"""Chest radiographs seen from the front: what each tissue absorbs is added up along the ray.

Body units: x to the image's right, which is the patient's left; lungs from about y = -0.75 to 0.55.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from simulation.phantom.fields import (
    Field,
    Frame,
    Mask,
    Points,
    between,
    blend,
    chord,
    coverage,
    dome,
    fractal_noise,
    pick_place,
    profile,
    rough_ellipse,
    smooth_curve,
    smooth_noise,
    wandering_curves,
)
from simulation.phantom.scanner import Scanner

_SIDES = (-1, 1)


@dataclass(frozen=True)
class Chest:
    """One patient's chest.

    Attributes:
        frame: Where the body lies in the image.
        density: ``(S, S)`` grey in about [0, 1] before the scanner: 0 air, 1 the densest.
        lung: ``(S, S)`` signed distance from the rim of either lung, positive inside.
        clear: ``(S, S)`` the same without what lies behind heart and mediastinum.
    """

    frame: Frame
    density: Field
    lung: Field
    clear: Field


def draw_chest(rng: np.random.Generator, size: int, scanner: Scanner) -> Chest:  # noqa: ARG001
    """Draw a patient: build, pose, lungs, heart, bones and vessels."""
    frame = Frame(
        size,
        angle=rng.normal(0, 0.025),
        shift=(rng.normal(0, 0.03), rng.normal(0, 0.03)),
        zoom=between(rng, 0.95, 1.18),
    )
    build = _Build.draw(rng)
    lung, above = _lungs(frame, build)
    middle, heart_edge = _mediastinum(frame, build, rng)
    clear = np.minimum(lung, -heart_edge)
    air = dome(lung, 0.2) * (1 - 0.55 * coverage(heart_edge, 0.16))

    density = _soft_tissue(frame, build, rng)
    inside = coverage(lung, 2 * frame.pixel)
    density -= build.aeration * air * (1 + 0.06 * fractal_noise(rng, size, 14, 3, gain=0.8))
    density += 0.12 * coverage(-above, 0.03) * coverage(0.9 - np.abs(frame.x), 0.3)
    density -= _stomach_bubble(frame, build, rng) * coverage(-above, 2 * frame.pixel)
    density += middle * (1 - 0.7 * coverage(-above - 0.02, 0.12))
    density += _vessels(frame, rng) * inside
    shown = np.clip((density - 0.05) / 0.25, 0, 1) * (1 - 0.8 * coverage(-above, 0.1))
    density += _bones(frame, build, rng) * shown
    density += _breasts(frame, rng)
    return Chest(frame, density, lung, clear)


@dataclass(frozen=True)
class _Build:
    """A patient's measures in body units: half widths, heights and densities."""

    width: float  # of the lungs at their widest, from the midline
    apex: float  # y of the lungs' top
    widest: float  # y where they are widest
    domes: tuple[float, float]  # y of the diaphragm's domes, left and right in the image
    shoulder: float  # y of the shoulders
    fat: float  # soft tissue outside the ribs
    aeration: float  # how much darker a lung is than the tissue round it
    heart: float  # how far the heart reaches to the image's right

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Build":
        right = between(rng, 0.36, 0.6)
        return cls(
            width=between(rng, 0.66, 0.78),
            apex=between(rng, -0.82, -0.72),
            widest=between(rng, 0.2, 0.4),
            domes=(right, right + between(rng, 0.0, 0.1)),
            shoulder=between(rng, -0.9, -0.72),
            fat=between(rng, 0.1, 0.24),
            aeration=between(rng, 0.28, 0.46),
            heart=between(rng, 0.3, 0.44),
        )

    def wall(self, y: Field | float) -> Field:
        """Half width of the rib cage at a height."""
        t = np.clip((self.widest - np.asarray(y, np.float32)) / (self.widest - self.apex), 0, 1)
        upper = np.sqrt(np.clip(1 - t**2.3, 0, 1))
        half_width: Field = np.float32(0.3) + np.float32(self.width - 0.3) * upper
        return half_width


def _lungs(frame: Frame, build: _Build) -> tuple[Field, Field]:
    """Return the signed distance from the lungs' rim and the distance above the diaphragm."""
    side = np.abs(frame.x)
    medial = 0.02
    centre, half = (build.width + medial) / 2, (build.width - medial) / 2
    t = np.clip((build.widest - frame.y) / (build.widest - build.apex), 0, None)
    s = np.abs(side - centre) / half
    upper = (1 - (s**2.2 + t**2.5) ** (1 / 2.3)) * half
    lower = half - np.abs(side - centre) - 0.08 * np.square(np.clip(frame.y - build.widest, 0, None))
    walls = np.where(frame.y < build.widest, upper, lower)

    crest = build.domes[0] + (build.domes[1] - build.domes[0]) * coverage(frame.x, 0.3)
    off = side - 0.34
    floor = crest + np.where(off > 0, 1.15, 0.45) * off * off
    slope = np.where(off > 0, 2.3, 0.9) * off
    above = (floor - frame.y) / np.sqrt(1 + slope * slope)
    return np.minimum(walls, above).astype(np.float32), above.astype(np.float32)


def _soft_tissue(frame: Frame, build: _Build, rng: np.random.Generator) -> Field:
    """Neck, shoulders, trunk and arms: smooth and thick in the middle."""
    side = np.abs(frame.x)
    neck, droop = between(rng, 0.24, 0.31), between(rng, 0.05, 0.2)
    shoulder = build.shoulder
    top = frame.y - profile(
        side,
        [0, neck - 0.05, neck, neck + 0.08, neck + 0.3, 0.95, 1.15, 1.6],
        [-2.8, -1.6, -1.15, shoulder - 0.16, shoulder, shoulder + droop, shoulder + droop + 0.2, 1.4],
    )
    armpit = between(rng, -0.3, -0.1)
    above_armpit = np.clip(armpit - frame.y, 0, None)
    flank = build.width + build.fat + 0.05 * np.square(frame.y - 0.1) + 2.0 * above_armpit**1.4 - side
    spread = between(rng, 0.08, 0.3)
    arm = 0.17 - np.abs(side - (1.02 + build.fat * 0.6 + spread * (frame.y + 0.4)))
    trunk = dome(np.minimum(0.7 * top, flank), 0.3)
    arms = dome(np.minimum(arm, np.minimum(0.7 * top, frame.y + 0.75)), 0.16)
    thickness = np.maximum(trunk, 0.8 * arms)
    uneven = 1 + 0.04 * smooth_noise(rng, frame.size, 3)
    tissue: Field = 0.05 + 0.58 * thickness * uneven + 0.12 * trunk * coverage(0.5 - side, 0.9)
    return tissue


def _mediastinum(frame: Frame, build: _Build, rng: np.random.Generator) -> tuple[Field, Field]:
    """Return what heart, great vessels, spine and windpipe add, and the signed distance from their rim."""
    jitter = rng.normal(0, 0.012, 8)
    floor = build.domes[1]
    heights = [-1.3, -0.8, -0.55, -0.4, -0.26, -0.12, 0.1, floor - 0.1, floor + 0.1, 1.3]
    to_left = [0.13, 0.12, 0.12, 0.175, 0.14, 0.16, build.heart * 0.74, build.heart, build.heart * 0.8, 0.2]
    to_right = [0.13, 0.12, 0.11, 0.115, 0.115, 0.13, 0.19, 0.21, 0.19, 0.14]
    to_left[3:8] = [v + j for v, j in zip(to_left[3:8], jitter[:5], strict=True)]
    to_right[5:8] = [v + j for v, j in zip(to_right[5:8], jitter[5:], strict=True)]
    edge = np.minimum(
        profile(frame.y, heights, to_left) - frame.x, profile(frame.y, heights, to_right) + frame.x
    )
    added = 0.17 * dome(edge, 0.12) * coverage(frame.y + 0.75, 0.5)
    added += 0.17 * dome(edge, 0.32) * coverage(frame.y + 0.1, 0.5)

    lean = rng.normal(0, 0.012) * np.sin(3 * frame.y)
    spine = np.abs(frame.x - lean)
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * (frame.y / 0.105 + rng.uniform()))
    added += 0.06 * chord(spine, 0.1) * (0.6 + 0.4 * discs**0.5) * coverage(0.3 - frame.y, 0.8)
    windpipe = coverage(-0.3 - frame.y, 0.08) * chord(spine, 0.045)
    bronchi = sum(
        chord(np.abs(frame.y + 0.3 - tilt * side * frame.x) * 0.85, 0.026)
        * coverage(0.09 - np.abs(side * frame.x - 0.08), 0.05)
        for side, tilt in zip(_SIDES, (1.5, 1.0), strict=True)
    )
    return added - 0.15 * windpipe - 0.06 * bronchi, edge


def _tube(distance: Field, radius: Field | float) -> Field:
    """What a hollow bone absorbs: its shell shows as two bright lines."""
    return chord(distance, radius) - 0.55 * chord(distance, radius * 0.75)


def _along(frame: Frame, curves: list[Points], fade: float) -> Field:
    """Draw hollow bones along curves of (x, y, radius); their ends fade over a length in body units."""
    points = np.concatenate(curves)
    distance, index = frame.nearest(points)
    ends = [np.minimum(np.arange(len(c)), np.arange(len(c))[::-1]) for c in curves]
    rest = np.concatenate(ends)[index].astype(np.float32) * (0.8 * frame.pixel)
    bones: Field = _tube(distance, points[index, 2]) * np.clip(rest / fade, 0, 1)
    return bones


def _bones(frame: Frame, build: _Build, rng: np.random.Generator) -> Field:
    """Ribs as tilted rings seen from the front, collar bones, shoulder blades and upper arms."""
    step = 0.8 * frame.pixel
    back, front = [], []
    spacing, first = between(rng, 0.125, 0.145), build.apex + between(rng, -0.08, -0.02)
    drop = between(rng, 0.42, 0.62)
    for side in _SIDES:
        for rib in range(10):
            y0 = first + rib * spacing + rng.normal(0, 0.007)
            fall = drop * (0.55 + 0.06 * rib) + rng.normal(0, 0.015)
            reach = float(build.wall(y0 + 0.5 * fall)) + 0.015
            radius = 0.027 + 0.0012 * rib + rng.normal(0, 0.001)
            phi = np.linspace(0.06, 2.35, 40)
            ring = np.stack(
                [
                    side * (0.05 + (reach - 0.05) * np.sin(phi) ** 0.9),
                    y0 + 0.5 * fall * (1 - np.cos(phi)) - 0.03 * np.sin(2 * phi),
                    np.full_like(phi, radius),
                ],
                axis=1,
            )
            back.append(smooth_curve([tuple(p) for p in ring[:28:3]], step))
            if rib < 7:
                front.append(smooth_curve([tuple(p) for p in ring[24::3]], step))
    strength = between(rng, 0.1, 0.17)
    bones = strength * _along(frame, back, 0.05) + 0.7 * strength * _along(frame, front, 0.2)

    collar, arm = [], []
    for side in _SIDES:
        rise = rng.normal(0, 0.02)
        y = build.apex + 0.14 + rng.normal(0, 0.02)
        line = [(0.09, y + 0.05, 0.032), (0.2, y, 0.024), (0.4, y - 0.06 + rise, 0.021)]
        line += [(0.6, y - 0.12 + rise, 0.022), (0.82, y - 0.1 + rise, 0.026)]
        collar.append(smooth_curve([(side * a, b, r) for a, b, r in line], step))
        top = y + 0.06
        blade = [
            (0.66, top - 0.1, 0.02),
            (0.62, top + 0.1, 0.014),
            (0.68, top + 0.35, 0.012),
            (0.78, top + 0.5, 0.012),
        ]
        arm.append(smooth_curve([(side * a, b, r) for a, b, r in blade], step))
        humerus = [
            (0.98, top - 0.06, 0.09),
            (1.0, top + 0.06, 0.085),
            (1.06, top + 0.2, 0.055),
            (1.14, 1.2, 0.05),
        ]
        arm.append(smooth_curve([(side * a, b, r) for a, b, r in humerus], step))
    bones += 0.22 * _along(frame, collar, 0.04) + 0.16 * _along(frame, arm, 0.05)
    return bones


def _vessels(frame: Frame, rng: np.random.Generator) -> Field:
    """Lung vessels: trees that start at the hila, fork and taper until they are thin."""
    fan = np.linspace(-1.35, 1.45, 8)
    headings = np.concatenate([np.pi - fan, fan]) + rng.normal(0, 0.25, 16)
    roots = np.repeat([[-0.13, -0.1], [0.13, -0.16]], 8, axis=0) + rng.normal(0, (0.015, 0.03), (16, 2))
    radii = np.full(16, 0.011)
    twigs = []
    while radii.size:
        lengths = rng.uniform(0.6, 1.2, radii.size) * (0.05 + 11 * radii)
        walks = wandering_curves(rng, roots, headings, lengths, bend=0.5, step=0.8 * frame.pixel)
        taper = radii[:, None] * np.linspace(1, 0.8, walks.shape[1])  # (M, T)
        twigs.append(np.concatenate([walks, taper[:, :, None]], axis=2).reshape(-1, 3))
        fork = rng.uniform(0.2, 0.55, radii.size) * rng.choice((-1, 1), radii.size)
        headings = np.concatenate([headings + fork, headings - 0.6 * fork])
        roots = np.concatenate([walks[:, -1], walks[:, -1]])
        radii = np.concatenate(
            [radii * rng.uniform(0.55, 0.8, radii.size), radii * rng.uniform(0.65, 0.8, radii.size)]
        )
        goes_on = radii > 0.0024
        headings, roots, radii = headings[goes_on], roots[goes_on], radii[goes_on]
    points = np.concatenate(twigs).astype(np.float32)
    distance, index = frame.nearest(points)
    radius = np.maximum(points[index, 2], 0.6 * frame.pixel)
    hila = sum(
        np.exp(-(np.square(frame.x - s * 0.15) / 0.006 + np.square(frame.y + 0.1) / 0.02)) for s in _SIDES
    )
    strength = np.minimum(10 * points[index, 2], 0.075)
    vessels: Field = strength * chord(distance, radius * 1.6) + 0.07 * hila
    return vessels


def _stomach_bubble(frame: Frame, build: _Build, rng: np.random.Generator) -> Field:
    """Gas under the left dome, in two of three patients."""
    there = rng.random() < 0.66
    centre = (between(rng, 0.26, 0.42), build.domes[1] + between(rng, 0.1, 0.16))
    bubble = rough_ellipse(
        frame, rng, centre, (between(rng, 0.08, 0.15), between(rng, 0.05, 0.09)), roughness=0.08
    )
    return 0.26 * dome(bubble, 0.07) * there


def _breasts(frame: Frame, rng: np.random.Generator) -> Field:
    """Soft shadows over the lower lungs, in about half of the patients."""
    strength = max(0.0, rng.uniform(-0.1, 0.1))
    radius, x, y = between(rng, 0.34, 0.52), between(rng, 0.42, 0.54), between(rng, 0.2, 0.42)
    depth = np.maximum(*(radius - np.hypot(frame.x - s * x, (frame.y - y) * 0.9) for s in _SIDES))
    return strength * np.square(dome(depth, radius)) * coverage(frame.y - y + 0.05, 0.9)


def add_nodule(chest: Chest, rng: np.random.Generator) -> tuple[Chest, Mask]:
    """Put a round, dense nodule into a lung."""
    radius = between(rng, 0.04, 0.085)
    centre = pick_place(rng, chest.frame, chest.clear - radius)
    stretch = between(rng, 0.85, 1.15)
    rim = rough_ellipse(chest.frame, rng, centre, (radius * stretch, radius / stretch), roughness=0.05)
    body = dome(rim, radius) * coverage(rim, 0.02)
    return replace(chest, density=chest.density + between(rng, 0.16, 0.28) * body), rim > 0


def add_consolidation(chest: Chest, rng: np.random.Generator) -> tuple[Chest, Mask]:
    """Fill part of a lung with fluffy shadow through which the bronchi stay dark."""
    frame = chest.frame
    radii = (between(rng, 0.15, 0.26), between(rng, 0.15, 0.28))
    centre = pick_place(rng, frame, chest.clear - 0.1)
    rim = rough_ellipse(frame, rng, centre, radii, angle=between(rng, 0, math.pi), roughness=0.12)
    rim = rim + 0.045 * fractal_noise(rng, frame.size, 12, 3)
    cover = coverage(rim, 0.14) * coverage(chest.lung, 0.03)
    patchy = np.clip(0.85 + 0.2 * fractal_noise(rng, frame.size, 16, 3), 0.3, 1.2)
    headings = np.arange(4) * (0.5 * math.pi) + rng.normal(0, 0.3, 4)
    walks = wandering_curves(
        rng, np.tile(centre, (4, 1)), headings, np.full(4, radii[0]), bend=0.6, step=0.8 * frame.pixel
    )
    airways, _ = frame.nearest(walks.reshape(-1, 2))
    strength = between(rng, 0.2, 0.34) * patchy * (1 - 0.25 * chord(airways, 0.012))
    return replace(chest, density=chest.density + strength * cover), cover > 0.5


def add_effusion(chest: Chest, rng: np.random.Generator) -> tuple[Chest, Mask]:
    """Let fluid fill the angle between diaphragm and rib cage, its surface rising to the side."""
    frame = chest.frame
    side = int(rng.choice(_SIDES))
    top = float(frame.y[(chest.clear > 0) & (side * frame.x > 0)].max()) - between(rng, 0.16, 0.34)
    rise = between(rng, 0.5, 1.2) * np.square(np.clip(side * frame.x - 0.2, 0, None))
    under = frame.y - (top - rise) + 0.006 * smooth_noise(rng, frame.size, 10)
    cover = coverage(under, 0.09) * coverage(chest.clear + 0.015, 0.02) * (side * frame.x > 0)
    fluid = between(rng, 0.8, 0.88)
    opaque = np.maximum(chest.density, blend(chest.density, fluid, np.full_like(cover, 0.9)))
    return replace(chest, density=blend(chest.density, opaque, cover)), cover > 0.5


FINDINGS: Mapping[str, Callable[[Chest, np.random.Generator], tuple[Chest, Mask]]] = {
    "nodule": add_nodule,
    "consolidation": add_consolidation,
    "effusion": add_effusion,
}


def scan_chest(chest: Chest, scanner: Scanner, rng: np.random.Generator) -> Field:
    """Take the radiograph: shading, blur, a side marker, and noise that grows where few photons arrive."""
    frame = chest.frame
    image = _film(scanner.sharpen_or_blur(chest.density * scanner.shading(rng, frame.size)))
    image += _marker(frame, rng)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image += noise * (0.009 * scanner.noise) * (0.6 + image)
    return scanner.tone(image)


def _film(density: Field) -> Field:
    """Keep the greys up to 0.6 and press all above into what is left below 1."""
    return np.where(density < 0.6, density, 0.6 + 0.4 * np.tanh((density - 0.6) * 2.5)).astype(np.float32)


def _marker(frame: Frame, rng: np.random.Generator) -> Field:
    """Lay a lead letter L on the patient's left, as radiographers do."""
    x, y = frame.x - between(rng, 0.74, 0.86), frame.y - between(rng, -0.88, -0.76)
    stem = np.minimum(0.012 - np.abs(x), 0.045 - np.abs(y))
    foot = np.minimum(0.028 - np.abs(x - 0.02), 0.012 - np.abs(y - 0.035))
    return 0.45 * coverage(np.maximum(stem, foot), frame.pixel)
