"""The mixture of tasks for many images of one support set."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mediclip.config import TaskName
from mediclip.synthesis import cut_paste, gaussian_intensity, smooth_intensity
from mediclip.synthesis.batched.intensity import add_plateau, add_texture, draw_plateaus, draw_textures
from mediclip.synthesis.batched.pasting import Piece, draw_views, look, paste
from mediclip.synthesis.batched.regions import draw_perlin_patches
from mediclip.synthesis.batched.tables import SplineTable
from mediclip.synthesis.batched.warps import draw_warps, sink_stretch, source_stretch, warp
from mediclip.synthesis.mixture import TASKS, Mixture, check_images
from mediclip.synthesis.shapes import Image, Pair

# Ends of the sides of the boxes in which masks of Perlin noise are drawn.
_PERLIN_SIDES: Mapping[TaskName, tuple[float, float]] = {
    "cut_paste": (cut_paste.LOW, cut_paste.HIGH),
    "gaussian_intensity": (gaussian_intensity.LOW, gaussian_intensity.HIGH),
    "smooth_intensity": (smooth_intensity.LOW, smooth_intensity.HIGH),
}
_STRETCHES = {"source": source_stretch, "sink": sink_stretch}


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
        self._shape: Pair = (support.shape[1], support.shape[2])
        self._table = SplineTable(support)

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
        drawn = rng.choice(len(names), size=len(indexes), p=weights)
        counts = 1 + (rng.random(len(indexes)) < self._mixture.second_anomaly)
        images = self._support[indexes]
        labels = np.zeros(images.shape, np.float32)
        for number, task in enumerate(names):
            owners = np.repeat(np.arange(len(indexes)), np.where(drawn == number, counts, 0))
            if len(owners) == 0:
                continue
            if task in _STRETCHES:
                self._warp(task, images, labels, owners, indexes, rng)
            elif task in _PERLIN_SIDES:
                self._change(task, images, labels, owners, rng)
        return images, labels, tuple(names[number] for number in drawn.tolist())

    def _warp(
        self,
        task: TaskName,
        images: Image,
        labels: Image,
        owners: NDArray[np.int64],
        indexes: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> None:
        warps = draw_warps(len(owners), self._shape, rng)
        places, starts, counts = np.unique(owners, return_index=True, return_counts=True)
        parts = np.stack([indexes[places], places, starts, starts + counts], axis=1).tolist()
        # One table after the other, since a table is larger than a processor's own memory.
        for index, place, start, stop in sorted(parts):
            warp(images[place], labels[place], warps[start:stop], _STRETCHES[task], self._table, index)

    def _change(
        self,
        task: TaskName,
        images: Image,
        labels: Image,
        owners: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> None:
        """Change places of Perlin noise."""
        count, shape = len(owners), np.array(self._shape)
        low, high = (np.array([round(end * side) for side in self._shape]) for end in _PERLIN_SIDES[task])
        boxes = rng.integers(np.maximum(low, 3), np.maximum(high, 4), (count, 2))
        corners = rng.integers(shape - boxes + 1)
        patches = draw_perlin_patches(boxes, corners, rng)
        pairs = [(images[owner], labels[owner], patch) for owner, patch in zip(owners, patches, strict=True)]
        if task == "gaussian_intensity":
            for pair, texture in zip(pairs, draw_textures(count, self._shape, rng), strict=True):
                add_texture(*pair, texture)
        elif task == "smooth_intensity":
            for pair, plateau in zip(pairs, draw_plateaus(count, self._shape, rng), strict=True):
                add_plateau(*pair, *plateau)
        else:
            views = draw_views(boxes, self._shape, rng)
            pieces = rng.integers(len(self._support), size=count).tolist()
            # A patch begins somewhere in its box.
            starts = np.array([patch.corner for patch in patches]) - corners
            offsets = views.offsets + (views.matrices * starts[:, None, :]).sum(axis=2)
            looked: dict[int, Piece] = {}
            # One table after the other, since a table is larger than a processor's own memory.
            for number in np.argsort(pieces).tolist():
                view = views.matrices[number], offsets[number]
                looked[number] = look(patches[number], self._table, pieces[number], *view)
            for number, pair in enumerate(pairs):
                paste(*pair, looked[number])
