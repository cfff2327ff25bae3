"""Compares finished models at a site: on synthetic anomalies of normal images that none was trained on.

No label of a real scan has a part in it. All models see the same images, drawn with names of their own, and
the kinds of anomaly include those that training leaves out.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.service.conclusion import Basis, Mark
from client.service.material import Material
from mediclip.config import TaskName
from mediclip.data.moved import moved_copies
from mediclip.evaluation.image_metrics import image_auroc
from mediclip.evaluation.pixel_metrics import PixelMetrics
from mediclip.model.known_tokens import KnownTokens
from mediclip.model.memory import NormalityMemory, build_memory
from mediclip.model.network import MediClip
from mediclip.rng import Name, generator
from mediclip.synthesis.batched import BatchedMixture
from mediclip.synthesis.mixture import TASKS

_NORMALS: Final = 32
_ANOMALIES_OF_EACH: Final = 2
_FEWEST: Final = 4
_BATCH: Final = 16


class Exam:
    """The images of one comparison, encoded.

    Args:
        network: A network of the models that are compared; its trained tensors do not matter.
        material: Gives the held-out normal images, and the support images for memories.
        seed: The run's seed.
        stream: Names that set the site's randomness apart.

    Attributes:
        basis: ``held-out``, or ``copies`` where the site has fewer than 4 images to hold out: then moved
            copies of the support images stand in for them, which the models know better than others.
        images: How many different normal images it is made from.
    """

    def __init__(self, network: MediClip, material: Material, *, seed: int, stream: tuple[Name, ...]) -> None:
        self._material, self._seed, self._stream = material, seed, stream
        self._known: dict[bytes, list[Tensor]] = {}
        held_out = None if material.held_out is None else material.held_out()
        rng = generator(seed, *stream, "final exam")
        self.basis: Basis = "held-out"
        if held_out is not None and len(held_out) >= _FEWEST:
            copies = moved_copies(held_out, max(0, _NORMALS // len(held_out) - 1), rng)
            normals = np.concatenate([held_out, copies])
            self.images = len(held_out)
        else:
            self.basis, self.images = "copies", len(material.support)
            normals = moved_copies(material.support, max(1, _NORMALS // len(material.support)), rng)
        tasks: dict[TaskName, float] = {task: 1.0 for task in TASKS if task != "identity"}
        places = np.tile(np.arange(len(normals)), _ANOMALIES_OF_EACH)
        changed, labels, _ = BatchedMixture(tasks, network.recipe.second_anomaly, normals).draw(places, rng)
        self._labels: NDArray[np.bool_] = np.concatenate([np.zeros_like(normals), labels]) > 0.5
        self._tokens = _encode(network, np.concatenate([normals, changed]))

    def memory(self, network: MediClip) -> NormalityMemory | None:
        """Build the site's memory for a model, if its recipe has one."""
        if network.recipe.memory is None or len(self._material.support) < 2:
            return None
        tower = KnownTokens(network, network.recipe, self._known)
        return build_memory(tower, self._material.support, seed=self._seed, stream=self._stream)

    @torch.no_grad()
    def mark(self, network: MediClip) -> Mark:
        """Judge a model as it is, with its memory if it has one.

        Args:
            network: Of the tower and taps that the exam was made with.

        Returns:
            Its marks.
        """
        scores: list[float] = []
        pixels = PixelMetrics()
        for start in range(0, len(self._labels), _BATCH):
            tokens = [tap[start : start + _BATCH].float() for tap in self._tokens]
            said = network.judge(tokens)
            scores += said.scores.tolist()
            pixels.update(said.maps.clamp(0, 1).cpu().numpy(), self._labels[start : start + _BATCH])
        is_abnormal = np.arange(len(scores)) >= len(scores) // (1 + _ANOMALIES_OF_EACH)
        image, pixel = image_auroc(is_abnormal, np.array(scores)), pixels.pixel_auroc()
        # Both classes are there by construction, unless an anomaly changed no pixel at all.
        return Mark(0.5 if image is None else image, 0.5 if pixel is None else pixel)


def _encode(network: MediClip, images: NDArray[np.float32]) -> Sequence[Tensor]:
    parts = []
    with torch.no_grad():
        for start in range(0, len(images), _BATCH):
            tokens = network.tokens(torch.from_numpy(images[start : start + _BATCH]))
            parts.append([tap.half() for tap in tokens])
    return [torch.cat([part[tap] for part in parts]) for tap in range(len(parts[0]))]
