"""Fundus photographs in grey: disc, macula, vessels and the round edge of the camera's field.

Body units: x to the image's right, y down; the field's radius is about 0.95. The eye is a right one, with the
disc at the right of the macula, unless the scanner mirrors it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from simulation.phantom.fields import (
    Field,
    Frame,
    Mask,
    between,
    blend,
    chord,
    coverage,
    fractal_noise,
    pick_place,
    rough_ellipse,
    smooth_noise,
    wandering_curves,
)
from simulation.phantom.scanner import Scanner


@dataclass(frozen=True)
class Retina:
    """One patient's fundus.

    Attributes:
        frame: Where the eye lies in the image.
        signal: ``(S, S)`` grey in [0, 1] before the camera.
        field: ``(S, S)`` signed distance from the edge of the camera's field, positive inside.
        free: ``(S, S)`` distance from disc and macula, positive outside both.
    """

    frame: Frame
    signal: Field
    field: Field
    free: Field


def draw_retina(rng: np.random.Generator, size: int, scanner: Scanner) -> Retina:  # noqa: ARG001
    """Draw a patient: pigment, disc and cup, macula, arcades, and where the camera looks."""
    frame = Frame(
        size,
        angle=rng.normal(0, 0.1),
        shift=(rng.normal(0, 0.04), rng.normal(0, 0.04)),
        zoom=between(rng, 0.95, 1.1),
    )
    around = np.hypot(frame.x, frame.y)
    field = np.minimum(between(rng, 0.9, 0.98) - around, 1.2 - np.abs(frame.y))
    pigment = between(rng, 0.38, 0.52)
    signal = pigment * (1 + 0.05 * fractal_noise(rng, size, 3, 3)) + 0.012 * fractal_noise(rng, size, 40, 3)
    signal *= 1 - 0.25 * np.square(around)
    signal += between(rng, 0.0, 0.05) * np.clip(fractal_noise(rng, size, 10, 2, stretch=1.5), 0, None)

    disc_at = (between(rng, 0.36, 0.5), rng.normal(0, 0.03))
    macula_at = (disc_at[0] - between(rng, 0.5, 0.62), disc_at[1] + between(rng, 0.03, 0.09))
    from_macula = np.hypot(frame.x - macula_at[0], frame.y - macula_at[1])
    signal = signal * (1 - between(rng, 0.2, 0.4) * np.exp(-np.square(from_macula / between(rng, 0.1, 0.16))))
    signal += between(rng, 0.0, 0.06) * np.exp(-np.square(from_macula / 0.02))

    radii = (between(rng, 0.09, 0.115), between(rng, 0.105, 0.125))
    disc = rough_ellipse(frame, rng, disc_at, radii, roughness=0.02)
    cup_share = between(rng, 0.25, 0.5)
    cup_at = (disc_at[0] + 0.01, disc_at[1])
    cup = rough_ellipse(frame, rng, cup_at, (radii[0] * cup_share, radii[1] * cup_share), roughness=0.04)
    signal = blend(signal, between(rng, 0.74, 0.84), coverage(disc, 0.02))
    signal = blend(signal, 0.94, coverage(cup, 0.04))
    signal = _vessels(frame, rng, signal, disc_at, from_macula)
    free = np.minimum(-disc - 0.04, from_macula - 0.08)
    return Retina(frame, signal.astype(np.float32), field.astype(np.float32), free)


def _vessels(
    frame: Frame, rng: np.random.Generator, signal: Field, disc: tuple[float, float], from_macula: Field
) -> Field:
    """Let arteries and veins leave the disc up and down, arch round the macula and fork."""
    step = 0.8 * frame.pixel
    headings = np.concatenate([
        np.array([-0.62, 0.62, -0.4, 0.4]) * math.pi - np.array([0.12, -0.12, 0, 0]),
        np.array([-0.7, 0.7, -0.33, 0.33]) * math.pi,
    ])  # fmt: skip
    headings = headings + rng.normal(0, 0.12, headings.size)
    roots = np.tile(np.asarray(disc), (headings.size, 1)) + rng.normal(0, 0.015, (headings.size, 2))
    radii = np.tile([0.0135, 0.0135, 0.011, 0.011], 2) * rng.uniform(0.8, 1.2, headings.size)
    turn = np.sign(np.sin(headings)) * np.where(np.cos(headings) < 0, -1.0, 0.3)
    pieces = []
    while radii.size:
        lengths = rng.uniform(0.8, 1.3, radii.size) * (0.1 + 16 * radii)
        walks = wandering_curves(rng, roots, headings, lengths, bend=0.5, step=step)
        taper = radii[:, None] * np.linspace(1, 0.85, walks.shape[1])
        dark = np.broadcast_to((0.2 + 5 * radii)[:, None], taper.shape)
        pieces.append(np.concatenate([walks, taper[..., None], dark[..., None]], axis=2).reshape(-1, 4))
        fork = rng.uniform(0.25, 0.7, radii.size) * rng.choice((-1, 1), radii.size)
        bent = headings + 0.28 * turn
        headings = np.concatenate([bent - 0.3 * fork, bent + fork])
        roots = np.concatenate([walks[:, -1], walks[:, -1]])
        radii = np.concatenate([radii * rng.uniform(0.78, 0.9, radii.size),
                                radii * rng.uniform(0.5, 0.7, radii.size)])  # fmt: skip
        turn = np.concatenate([turn, turn * 0.3])
        goes_on = (radii > 0.0032) & (np.abs(roots).max(axis=1) < 1.1)
        headings, roots, radii, turn = headings[goes_on], roots[goes_on], radii[goes_on], turn[goes_on]
    points = np.concatenate(pieces).astype(np.float32)
    distance, index = frame.nearest(points)
    radius = np.maximum(points[index, 2], 0.55 * frame.pixel)
    shade = chord(distance, radius * 1.5) * points[index, 3] * coverage(from_macula - 0.1, 0.08)
    darker: Field = signal * (1 - 0.9 * shade)
    return darker


def _scatter(
    retina: Retina, rng: np.random.Generator, count: int, spread: float, radius: tuple[float, float]
) -> Field:
    """Return the signed distance from many small blots round one place, positive inside any."""
    frame = retina.frame
    room = np.minimum(retina.field - 0.12, retina.free)
    centre = pick_place(rng, frame, room)
    places = np.asarray(centre) + spread * rng.standard_normal((count, 2))
    rims = [
        rough_ellipse(
            frame, rng, (float(x), float(y)), (r * between(rng, 0.8, 1.4), r), angle=between(rng, 0, 3),
            roughness=0.15,
        )
        for (x, y), r in zip(places, rng.uniform(*radius, count), strict=True)
    ]  # fmt: skip
    rim: Field = np.minimum(np.max(rims, axis=0), retina.field - 0.03)
    return rim


def add_haemorrhage(retina: Retina, rng: np.random.Generator) -> tuple[Retina, Mask]:
    """Let blood stain the retina in a few dark blots with feathered edges."""
    rim = _scatter(retina, rng, int(rng.integers(2, 7)), 0.09, (0.025, 0.065))
    rim = rim + 0.008 * fractal_noise(rng, retina.frame.size, 24, 2)
    dark = between(rng, 0.3, 0.55)
    return replace(retina, signal=retina.signal * (1 - (1 - dark) * coverage(rim, 0.025))), rim > 0


def add_exudates(retina: Retina, rng: np.random.Generator) -> tuple[Retina, Mask]:
    """Lay a cluster of bright, sharp flecks of fat."""
    rim = _scatter(retina, rng, int(rng.integers(6, 16)), between(rng, 0.06, 0.1), (0.012, 0.03))
    return (
        replace(retina, signal=blend(retina.signal, between(rng, 0.75, 0.9), 0.9 * coverage(rim, 0.012))),
        rim > 0,
    )


def add_scar(retina: Retina, rng: np.random.Generator) -> tuple[Retina, Mask]:
    """Leave one pale patch with pigment at its rim, as burns and old inflammation do."""
    frame = retina.frame
    radius = between(rng, 0.07, 0.14)
    centre = pick_place(rng, frame, np.minimum(retina.field - radius - 0.05, retina.free - 0.5 * radius))
    rim = rough_ellipse(
        frame,
        rng,
        centre,
        (radius * between(rng, 0.8, 1.3), radius),
        angle=between(rng, 0, 3),
        roughness=0.12,
    )
    mottled = between(rng, 0.62, 0.75) * (1 + 0.1 * fractal_noise(rng, frame.size, 16, 3))
    signal = blend(retina.signal, mottled, coverage(rim, 0.03))
    seam = coverage(0.012 - np.abs(rim), 0.02) * np.clip(0.6 + 0.5 * smooth_noise(rng, frame.size, 16), 0, 1)
    return replace(retina, signal=signal * (1 - 0.55 * seam)), rim > -0.008


FINDINGS: Mapping[str, Callable[[Retina, np.random.Generator], tuple[Retina, Mask]]] = {
    "haemorrhage": add_haemorrhage,
    "exudates": add_exudates,
    "scar": add_scar,
}


def scan_retina(retina: Retina, scanner: Scanner, rng: np.random.Generator) -> Field:
    """Take the photograph: uneven light, blur, the field's edge, and the sensor's noise."""
    frame = retina.frame
    light = scanner.shading(rng, frame.size)
    image = scanner.sharpen_or_blur(retina.signal * light * light * coverage(retina.field, 2 * frame.pixel))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return scanner.tone(image + np.float32(0.012 * scanner.noise) * noise * (0.3 + image))
