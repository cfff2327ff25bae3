"""The folds of the cortex in an axial cut: fluid that runs inwards from the surface and the midline."""

import math

import numpy as np

from simulation.phantom.fields import Field, Frame, Points, between, smooth_curve, wandering_curves


def draw_sulci(
    frame: Frame, rng: np.random.Generator, depth: Field, height: float, age: float
) -> tuple[Field, Field]:
    """Fold the cortex.

    Args:
        frame: Where the head lies.
        rng: Source of randomness.
        depth: ``(S, S)`` distance below the brain's surface, positive inside.
        height: Height of the cut in [0, 1], from the deep nuclei to above the ventricles.
        age: 0 young, with closed sulci, to 1 old, with open ones.

    Returns:
        How open the nearest sulcus is, ``(S, S)`` in [0, 1], and the signed distance from the rim of the
        sulci's fluid, ``(S, S)``, positive in the fluid.
    """
    folds = _Folds(rng, 0.8 * frame.pixel)
    open_width = 0.005 + 0.009 * age
    _add_midline(folds, open_width, height)
    _add_outer_sulci(folds, frame, depth, open_width)
    if height < 0.65:
        for side in (-1, 1):
            _add_sylvian(folds, frame, depth, side, open_width)
    points = np.concatenate(folds.points)
    distance, index = frame.nearest(points)
    width = points[index, 2]
    return np.clip(width / np.float32(0.008), 0.12, 1), np.maximum(width, 0.5 * frame.pixel) - distance


class _Folds:
    """Collects sulci as points of (x, y, half width)."""

    def __init__(self, rng: np.random.Generator, step: float) -> None:
        self.rng, self.step = rng, step
        self.points: list[Points] = []

    def add(self, lines: Points, wide: Field | float, narrow: Field | float) -> None:
        """Add lines ``(M, T, 2)`` that close from the half widths ``wide`` to ``narrow``, ``(M,)`` or one."""
        closing = np.square(np.linspace(1, 0, lines.shape[1]))
        wide, narrow = (np.broadcast_to(w, len(lines))[:, None] for w in (wide, narrow))
        width = narrow + (wide - narrow) * closing  # (M, T)
        self.points.append(
            np.concatenate([lines, width[:, :, None]], axis=2).reshape(-1, 3).astype(np.float32)
        )

    def walk(self, starts: Points, headings: Field, lengths: Field) -> Points:
        """Return wandering lines ``(M, T, 2)``."""
        return wandering_curves(self.rng, starts, headings, lengths, bend=0.7, step=self.step)


def _add_midline(folds: _Folds, open_width: float, height: float) -> None:
    """Part the hemispheres, in the middle only above the corpus callosum, and fold their inner faces."""
    rng = folds.rng
    gap = (0.0, 0.0) if height > 0.8 else (-0.42, between(rng, 0.3, 0.4))
    bend = rng.normal(0, 0.012)
    starts, headings = [], []
    for outer, inner in zip((-0.95, 0.95), gap, strict=True):
        line = smooth_curve(
            [(0, outer), (bend, 0.5 * (outer + inner)), (rng.normal(0, 0.006), inner)], folds.step
        )
        folds.add(line[None], open_width, open_width * 0.6)
        for side in (-1, 1):
            for y in np.arange(min(outer, inner) + 0.16, max(outer, inner) - 0.02, between(rng, 0.1, 0.14)):
                starts.append((bend * 0.7, y + rng.normal(0, 0.02)))
                headings.append(rng.normal(0, 0.35) + (0 if side > 0 else math.pi))
    lengths = rng.uniform(0.05, 0.16, len(starts))
    folds.add(folds.walk(np.array(starts), np.array(headings), lengths), open_width, open_width * 0.3)


def _add_outer_sulci(folds: _Folds, frame: Frame, depth: Field, open_width: float) -> None:
    """Cut sulci inwards from the surface, mostly a deep and a shallow one in turn, the deep ones branched."""
    rng = folds.rng
    theta = -0.5 * math.pi + 0.1 + rng.uniform(0.08, 0.14, 80).cumsum()
    theta = theta[(theta < 1.5 * math.pi - 0.1) & (np.abs(np.cos(theta)) > 0.1)]
    count = len(theta)
    deep = (rng.random(count) < 0.8).cumsum() % 2 == 0
    surface = _surface_points(frame, depth, theta)
    inward = np.arctan2(-0.75 * surface[:, 1], -surface[:, 0]) + rng.normal(0, 0.18, count)
    lengths = np.where(deep, rng.uniform(0.2, 0.33, count), rng.uniform(0.07, 0.16, count))
    is_open = rng.random(count) < 0.6
    width = open_width * np.where(is_open, rng.uniform(0.6, 1.4, count), rng.uniform(0.1, 0.4, count))
    walks = folds.walk(surface, inward, lengths)
    folds.add(walks, 2.0 * width, 0.3 * width)

    parent = np.repeat(np.flatnonzero(deep), 2)[rng.random(2 * int(deep.sum())) < 0.5]
    if parent.size:
        at = (walks.shape[1] * rng.uniform(0.4, 0.95, parent.size)).astype(np.intp)
        turn = inward[parent] + rng.choice((-1, 1), parent.size) * rng.uniform(0.7, 1.4, parent.size)
        branches = folds.walk(walks[parent, at], turn, rng.uniform(0.05, 0.12, parent.size))
        folds.add(branches, 0.5 * width[parent], 0.1 * width[parent])


def _surface_points(frame: Frame, depth: Field, theta: Field) -> Points:
    """Return where the rays from the origin at M angles leave the brain, ``(M, 2)``."""
    radii = np.linspace(0.3, 1.1, 160)
    x, y = radii * np.cos(theta)[:, None], radii * np.sin(theta)[:, None]  # (M, 160)
    row, column = frame.pixels(x, y)
    outside = depth[row.clip(0, frame.size - 1), column.clip(0, frame.size - 1)] < 0
    first = np.where(outside.any(axis=1), outside.argmax(axis=1), len(radii) - 1)
    pick = np.arange(len(theta))
    return np.stack([x[pick, first], y[pick, first]], axis=1)


def _add_sylvian(folds: _Folds, frame: Frame, depth: Field, side: int, open_width: float) -> None:
    """Cut the deep lateral fissure, which runs in and then along the insula."""
    rng = folds.rng
    y, reach = between(rng, -0.2, -0.1), between(rng, 0.4, 0.46)
    x = float(_surface_points(frame, depth, np.array([math.atan2(y, side)]))[0, 0])
    line = [
        (x, y),
        (side * (reach + 0.1), y + 0.02),
        (side * reach, y + 0.1),
        (side * (reach + 0.02), y + 0.24),
    ]
    folds.add(smooth_curve(line, folds.step)[None], between(rng, 0.012, 0.02), 0.6 * open_width)
