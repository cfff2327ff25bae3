"""The mixture of tasks for many images of one support set."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mediclip.config import TaskName
from mediclip.synthesis import cut_paste, gaussian_intensity, smooth_intensity
from mediclip.synthesis.batched.intensity import change_level, change_texture
from mediclip.synthesis.batched.regions import draw_perlin_masks
from mediclip.synthesis.batched.tables import SplineTable
from mediclip.synthesis.batched.warps import draw_warp, paste, sink_share, source_share, warp
from mediclip.synthesis.mixture import TASKS, Mixture, check_images
from mediclip.synthesis.shapes import Image, Region, draw_corner, draw_sides

# Ends of the sides of the boxes in which masks of Perlin noise are drawn.
_PERLIN_SIDES: Mapping[TaskName, tuple[float, float]] = {
    "cut_paste": (cut_paste.LOW, cut_paste.HIGH),
    "gaussian_intensity": (gaussian_intensity.LOW, gaussian_intensity.HIGH),
    "smooth_intensity": (smooth_intensity.LOW, smooth_intensity.HIGH),
}
_SHARES = {"source": source_share, "sink": sink_share}


class BatchedMixture:
    """Draws what :class:`mediclip.synthesis.mixture.Mixture` draws, for many images of a support set at once.

    Args:
        tasks: Weight of each task, at least 0 and not all 0.
        second_anomaly: Probability in [0, 1] of a second anomaly of the same task.
        support: ``(K, H, W)`` float32 in [0, 1]: what is changed and what pieces are cut from.

    Raises:
        DataError: If the support has another shape, type or range.
        SettingsError: If a task is unknown or a number out of its range.

    Source: METHOD 1.8.
    """

    def __init__(self, tasks: Mapping[TaskName, float], second_anomaly: float, support: Image) -> None:
        self._mixture = Mixture(tasks, second_anomaly)
        check_images(support, "support", "(K, H, W)")
        self._support = support
        self._table = SplineTable(support)
        self._ends = [(float(image.min()), float(image.max())) for image in support]

    def draw(
        self, indexes: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Image, Image, tuple[TaskName, ...]]:
        """Make one training image of each chosen support image, with tasks drawn independently.

        Args:
            indexes: ``(B,)`` in [0, K).
            rng: Source of the random numbers; the same state gives the same result.

        Returns:
            Images ``(B, H, W)`` and labels ``(B, H, W)``, float32 in [0, 1], and the B tasks.
        """
        names, probabilities = list(TASKS), self._mixture.probabilities
        weights = [probabilities.get(name, 0.0) for name in names]
        tasks = [names[i] for i in rng.choice(len(names), size=len(indexes), p=weights).tolist()]
        counts = 1 + (rng.random(len(indexes)) < self._mixture.second_anomaly)
        images = self._support[indexes]
        labels = np.zeros_like(images)
        regions = self._draw_regions(tasks, counts.tolist(), rng)
        for place, (index, task) in enumerate(zip(indexes.tolist(), tasks, strict=True)):
            if task in _SHARES:
                shape = (images.shape[1], images.shape[2])
                warps = [draw_warp(shape, _SHARES[task], rng) for _ in range(counts[place])]
                warp(images[place], labels[place], warps, self._table, index)
            for region in regions[place]:
                self._change(task, images[place], labels[place], region, rng)
        return images, labels, tuple(tasks)

    def _draw_regions(
        self, tasks: list[TaskName], counts: list[int], rng: np.random.Generator
    ) -> list[list[Region]]:
        """Draw the masks of Perlin noise of all images."""
        shape = (self._support.shape[1], self._support.shape[2])
        owners, boxes = [], []
        for place, (task, count) in enumerate(zip(tasks, counts, strict=True)):
            if task in _PERLIN_SIDES:
                owners += [place] * count
                boxes += [draw_sides(shape, *_PERLIN_SIDES[task], rng) for _ in range(count)]
        regions: list[list[Region]] = [[] for _ in tasks]
        for owner, box, mask in zip(owners, boxes, draw_perlin_masks(boxes, rng), strict=True):
            regions[owner].append(Region(draw_corner(shape, box, rng), mask))
        return regions

    def _change(
        self, task: TaskName, image: Image, label: Image, region: Region, rng: np.random.Generator
    ) -> None:
        if task == "cut_paste":
            piece = int(rng.integers(len(self._support)))
            paste(image, label, region, self._table, piece, self._ends[piece], rng)
            return
        (change_texture if task == "gaussian_intensity" else change_level)(image, region, rng)
        label[region.window][region.mask] = 1
