"""The mixture of tasks that training images are drawn from.

To see one task, draw from a mixture of it alone::

    Mixture({"cut_paste": 1.0}, second_anomaly=0.5).draw(image, support, rng)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from mediclip.config import TaskName
from mediclip.errors import DataError, SettingsError
from mediclip.synthesis.cut_paste import cut_paste
from mediclip.synthesis.deformation import sink, source
from mediclip.synthesis.gaussian_intensity import gaussian_intensity
from mediclip.synthesis.identity import identity
from mediclip.synthesis.shapes import MAX_ASPECT, MIN_SIDE, Image
from mediclip.synthesis.smooth_intensity import smooth_intensity

Task = Callable[[Image, Image, np.random.Generator], tuple[Image, Image]]
"""Takes an image, a source image (both ``(H, W)`` float32 in [0, 1]) and a generator, and returns a copy with
one anomaly and its label. Wherever the label is 0 the copy equals the image."""

TASKS: Mapping[TaskName, Task] = MappingProxyType(
    {
        "cut_paste": cut_paste,
        "gaussian_intensity": gaussian_intensity,
        "source": source,
        "sink": sink,
        "smooth_intensity": smooth_intensity,
        "identity": identity,
    }
)
"""Every task by the name that recipes use, in the order in which a mixture draws."""


@dataclass(frozen=True)
class Synthetic:
    """A synthesised image.

    Attributes:
        image: ``(H, W)`` float32 in [0, 1].
        label: ``(H, W)`` float32 in [0, 1], 0 where the image equals the one it was made from.
        task: What was done to it.
    """

    image: Image
    label: Image
    task: TaskName


class Mixture:
    """Draws a task by weight and applies it once or twice.

    Args:
        tasks: Weight of each task, at least 0 and not all 0; a recipe's ``tasks``. Their
            order does not count.
        second_anomaly: Probability in [0, 1] of a second anomaly of the same task, a recipe's
            ``second_anomaly``.

    Raises:
        SettingsError: If a task is unknown or a number out of its range.

    Source:
        METHOD 1.8. The published code labels two pasted pieces by their joint difference from the original;
        here the label is the larger of the two, which differs only where they overlap.
    """

    def __init__(self, tasks: Mapping[TaskName, float], second_anomaly: float) -> None:
        unknown = sorted(set(tasks) - set(TASKS))
        if unknown:
            message = (
                f"A synthesis task must be one of {', '.join(TASKS)}. Got {unknown[0]!r}; correct its name."
            )
            raise SettingsError(message)
        weights = np.array([tasks.get(name, 0.0) for name in TASKS], np.float64)
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.sum() > 0):
            message = (
                "The weights of the synthesis tasks must be finite, at least 0 and not all 0. "
                f"Got {dict(tasks)}; give at least one task a weight above 0."
            )
            raise SettingsError(message)
        if not 0 <= second_anomaly <= 1:
            message = f"The 'second_anomaly' setting must lie in [0, 1]. Got {second_anomaly!r}; correct it."
            raise SettingsError(message)
        self.second_anomaly = second_anomaly
        self._names = tuple(TASKS)
        self._probabilities = weights / weights.sum()

    @property
    def probabilities(self) -> dict[TaskName, float]:
        """Probability of each task that can be drawn; they sum to 1."""
        pairs = zip(self._names, self._probabilities.tolist(), strict=True)
        return {name: probability for name, probability in pairs if probability > 0}

    def draw(self, image: Image, sources: Image, rng: np.random.Generator) -> Synthetic:
        """Make one training image.

        Args:
            image: ``(H, W)`` float32 in [0, 1], sides of at least 32 pixels, the longer at
                most 4 times the shorter.
            sources: ``(K, H', W')`` float32 in [0, 1], normal images that pieces are cut from, K at least 1;
                the image may be one of them. One is drawn for every anomaly.
            rng: Source of the random numbers; the same state gives the same result.

        Returns:
            The synthesised image, a copy even where nothing changes.

        Raises:
            DataError: If an array has another shape, type or range.
        """
        check_images(image, "image", "(H, W)")
        check_images(sources, "sources", "(K, H, W)")
        return self._draw(image, sources, rng)

    def draw_batch(
        self, images: Image, sources: Image, rng: np.random.Generator
    ) -> tuple[Image, Image, tuple[TaskName, ...]]:
        """Make one training image of each image, with tasks drawn independently.

        Args:
            images: ``(B, H, W)`` float32 in [0, 1], sides of at least 32 pixels.
            sources: ``(K, H', W')`` float32 in [0, 1], K at least 1.
            rng: Source of the random numbers; the same state gives the same result.

        Returns:
            Images ``(B, H, W)`` and labels ``(B, H, W)``, float32 in [0, 1], and the B tasks.

        Raises:
            DataError: If an array has another shape, type or range.
        """
        check_images(images, "images", "(B, H, W)")
        check_images(sources, "sources", "(K, H, W)")
        made = [self._draw(image, sources, rng) for image in images]
        return (
            np.stack([one.image for one in made]),
            np.stack([one.label for one in made]),
            tuple(one.task for one in made),
        )

    def _draw(self, image: Image, sources: Image, rng: np.random.Generator) -> Synthetic:
        name = self._names[int(rng.choice(len(self._names), p=self._probabilities))]
        count = 2 if rng.random() < self.second_anomaly else 1
        changed, label = image, np.zeros_like(image)
        for _ in range(count):
            piece = sources[int(rng.integers(len(sources)))]
            changed, one_label = TASKS[name](changed, piece, rng)
            label = np.maximum(label, one_label)
        return Synthetic(changed, label, name)


def check_images(images: Image, name: str, form: str) -> None:
    """Refuse what no task can work on.

    Args:
        images: What was given.
        name: What to call it in a message.
        form: Its expected shape in a message, ``"(H, W)"`` or three letters.

    Raises:
        DataError: If it is not float32, of that form, not empty, large enough and in [0, 1].
    """
    found = f"{images.dtype} of shape {images.shape}"
    sides = images.shape[-2:]
    if (
        images.dtype != np.float32
        or images.ndim != form.count(",") + 1
        or images.size == 0
        or min(sides) < MIN_SIDE
        or max(sides) > MAX_ASPECT * min(sides)
    ):
        message = (
            f"The {name} of a synthesis must be float32 of shape {form}, not empty, with sides of at least "
            f"{MIN_SIDE} pixels, the longer at most {MAX_ASPECT} times the shorter. Got {found}; "
            "load it as the test images are loaded."
        )
        raise DataError(message)
    if not (images.min() >= 0 and images.max() <= 1):  # also false for NaN
        message = (
            f"The {name} of a synthesis must lie in [0, 1]. Some values of {found} do not; "
            "load it as the test images are loaded."
        )
        raise DataError(message)
