"""How sure a metric of images is: a seeded bootstrap within each class."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mediclip.errors import SettingsError
from mediclip.evaluation.image_metrics import check_labels_and_scores

Metric = Callable[[NDArray[np.bool_], NDArray[np.float64]], float | None]


def bootstrap_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    metric: Metric,
    *,
    draws: int = 1000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> tuple[float, float] | None:
    """Estimate the interval of a metric by drawing images with replacement, each class from itself.

    Both classes keep their size in every draw, so a metric that is defined on the whole is defined on each.
    The interval covers the chance in which images were tested, not the chance in how the model was trained;
    the spread over seeds stands beside it.

    Args:
        labels: ``(N,)`` in {0, 1}, 1 for abnormal.
        scores: ``(N,)`` finite, higher for more abnormal.
        metric: Function of labels and scores such as ``image_auroc``.
        draws: Bootstrap samples, at least 1.
        level: Share of the draws inside the interval, in (0, 1).
        rng: Source of the draws; its state moves on.

    Returns:
        Lower and upper quantile of the metric, or None where the metric is undefined.

    Raises:
        DataError: If labels and scores cannot be scored.
        SettingsError: If ``draws`` or ``level`` is out of range.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3 (percentile interval).
    """
    if draws < 1 or not 0 < level < 1:
        message = (
            "A bootstrap must have at least 1 draw and a level in (0, 1). "
            f"Got draws={draws} and level={level}; 1000 and 0.95 are usual."
        )
        raise SettingsError(message)
    checked_labels, checked_scores = check_labels_and_scores(labels, scores)
    if metric(checked_labels, checked_scores) is None:
        return None
    classes = [np.flatnonzero(checked_labels == c) for c in (False, True)]
    values = np.empty(draws)
    for draw in range(draws):
        picked = np.concatenate([rng.choice(c, size=len(c)) for c in classes if len(c)])
        value = metric(checked_labels[picked], checked_scores[picked])
        values[draw] = np.nan if value is None else value
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
