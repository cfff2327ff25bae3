"""Chooses the scans that a report shows: the best and worst of both classes, not a flattering few."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mediclip.evaluation.image_metrics import check_labels_and_scores


@dataclass(frozen=True)
class Choice:
    """Images chosen for one reason.

    Attributes:
        title: The reason, as a heading.
        note: What a reader should look for.
        positions: Positions in the test set, in the order to show them.
    """

    title: str
    note: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One scan with what was said about it.

    Attributes:
        title: Such as ``"test image 12 of busi"``.
        label: 0 normal, 1 abnormal.
        score: The image score.
        image: ``(S, S)`` grey in [0, 1].
        mask: ``(S, S)`` bool, or None where the set has no masks or the image is normal.
        maps: ``(S, S)`` anomaly maps in [0, 1] by detector.
    """

    title: str
    label: int
    score: float
    image: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    maps: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class CaseGroup:
    """Scans shown for one reason."""

    title: str
    note: str
    cases: tuple[Case, ...]


def choose_cases(labels: ArrayLike, scores: ArrayLike, *, each: int = 4) -> tuple[Choice, ...]:
    """Choose images by rank, so that errors are shown beside successes.

    Args:
        labels: ``(N,)`` in {0, 1}, 1 for abnormal.
        scores: ``(N,)`` finite, higher for more abnormal.
        each: Images for each reason, at least 1; fewer where a class is small. No image is chosen twice.

    Returns:
        One choice for each reason that has an image.

    Raises:
        DataError: If labels and scores cannot be scored.
    """
    abnormal, values = check_labels_and_scores(labels, scores)
    order = np.argsort(-values, kind="stable")
    lesions, normals = order[abnormal[order]], order[~abnormal[order]]
    wanted = (
        ("Abnormal, highest scores", "The clearest finds.", lesions[:each]),
        ("Abnormal, lowest scores", "The ones most likely to be missed.", lesions[::-1][:each]),
        ("Abnormal, around the median", "What to expect of an ordinary case.", _middle(lesions, each)),
        ("Normal, highest scores", "False alarms: what the model takes for abnormal.", normals[:each]),
        ("Normal, around the median", "Most of the map should be clear here.", _middle(normals, each)),
    )
    taken: set[int] = set()
    choices = []
    for title, note, positions in wanted:
        free = tuple(int(p) for p in positions if int(p) not in taken)
        taken.update(free)
        if free:
            choices.append(Choice(title, note, free))
    return tuple(choices)


def _middle(positions: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    start = max(0, (len(positions) - count) // 2)
    return positions[start : start + count]


def rank_among_normals(score: float, labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    """Compute the share of normal images that score below a value.

    Args:
        score: The value to place.
        labels: ``(N,)`` bool, True for abnormal.
        scores: ``(N,)`` scores.

    Returns:
        A share in [0, 1], or None where there is no normal image.
    """
    normals = scores[~labels]
    return float(np.mean(normals < score)) if len(normals) else None


def positions_of(choices: Sequence[Choice]) -> list[int]:
    """List all chosen positions, in the order of the choices."""
    return [position for choice in choices for position in choice.positions]
