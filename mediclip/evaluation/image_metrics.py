"""Metrics of one score per image. NumPy alone: they run in a bootstrap, and on machines without scikit-learn.

Every metric here needs both classes and is None, not 0 or 1, where one is absent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mediclip.errors import DataError
from mediclip.evaluation.curves import Floats, area_under, cumulative_share


@dataclass(frozen=True)
class RocCurve:
    """True against false positives, one point for each threshold at which something changes.

    Attributes:
        thresholds: ``(T,)`` falling, the first is infinity; an image is called abnormal at or above it.
        false_positive_rate: ``(T,)`` in [0, 1].
        true_positive_rate: ``(T,)`` in [0, 1].
    """

    thresholds: Floats
    false_positive_rate: Floats
    true_positive_rate: Floats


def check_labels_and_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Refuse what cannot be scored.

    Args:
        labels: ``(N,)`` in {0, 1}, 1 for abnormal.
        scores: ``(N,)`` finite, higher for more abnormal.

    Returns:
        Labels as bool and scores as float64, both ``(N,)``.

    Raises:
        DataError: If shapes differ, a label is neither 0 nor 1 or a score is not finite.
    """
    checked_labels = np.asarray(labels)
    checked_scores = np.asarray(scores, dtype=np.float64)
    if checked_labels.ndim != 1 or checked_labels.shape != checked_scores.shape:
        message = (
            "Labels and scores must both have shape (N,). "
            f"Got {checked_labels.shape} and {checked_scores.shape}; give one of each per image."
        )
        raise DataError(message)
    if not np.isin(checked_labels, (0, 1)).all():
        position = int(np.flatnonzero(~np.isin(checked_labels, (0, 1)))[0])
        message = (
            "Labels must be 0 (normal) or 1 (abnormal). "
            f"Got {checked_labels[position]} for image {position}; correct it in the sample list."
        )
        raise DataError(message)
    if not np.isfinite(checked_scores).all():
        position = int(np.flatnonzero(~np.isfinite(checked_scores))[0])
        message = (
            f"Scores must be finite. Got {checked_scores[position]} for image {position}; "
            "check that the model was trained without overflow."
        )
        raise DataError(message)
    return checked_labels.astype(np.bool_), checked_scores


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve | None:
    """Compute the receiver operating characteristic; equal scores share one point.

    Args:
        labels: ``(N,)`` in {0, 1}, 1 for abnormal.
        scores: ``(N,)`` finite, higher for more abnormal.

    Returns:
        The curve from (0, 0) to (1, 1), or None unless both classes are present.

    Raises:
        DataError: If the inputs cannot be scored.
    """
    abnormal, normal, thresholds = _counts(labels, scores)
    if not abnormal.sum() or not normal.sum():
        return None
    return RocCurve(
        np.concatenate(([np.inf], thresholds)), cumulative_share(normal), cumulative_share(abnormal)
    )


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Compute the probability that an abnormal image scores above a normal one, ties counting half.

    Args:
        labels: ``(N,)`` in {0, 1}, 1 for abnormal.
        scores: ``(N,)`` finite, higher for more abnormal.

    Returns:
        A value in [0, 1], or None unless both classes are present.

    Raises:
        DataError: If the inputs cannot be scored.

    Source:
        Hanley and McNeil, Radiology 143 (1982): the area under the ROC is the Mann-Whitney statistic.
    """
    curve = roc_curve(labels, scores)
    return None if curve is None else area_under(curve.false_positive_rate, curve.true_positive_rate)


def image_ap(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Compute average precision, Σ (R_k − R_{k−1}) P_k over distinct thresholds, without interpolation.

    Args:
        labels: ``(N,)`` in {0, 1}, 1 for abnormal.
        scores: ``(N,)`` finite, higher for more abnormal.

    Returns:
        A value in (0, 1], or None unless both classes are present. scikit-learn's
        ``average_precision_score`` gives the same where both are, and 0 or 1 where one is absent.

    Raises:
        DataError: If the inputs cannot be scored.
    """
    abnormal, normal, _ = _counts(labels, scores)
    if not abnormal.sum() or not normal.sum():
        return None
    found = np.cumsum(abnormal)
    precision = found / (found + np.cumsum(normal))
    return float(np.sum(abnormal * precision) / found[-1])


def sensitivity_at_specificity(
    labels: ArrayLike, scores: ArrayLike, *, specificity: float = 0.95
) -> float | None:
    """Find the largest share of abnormal images found while enough normal ones stay unflagged.

    The threshold is one of the scores, without interpolation between them.

    Args:
        labels: ``(N,)`` in {0, 1}, 1 for abnormal.
        scores: ``(N,)`` finite, higher for more abnormal.
        specificity: Least share of normal images below the threshold, in [0, 1].

    Returns:
        A value in [0, 1], or None unless both classes are present.

    Raises:
        DataError: If the inputs cannot be scored.
    """
    curve = roc_curve(labels, scores)
    if curve is None:
        return None
    allowed = 1.0 - specificity + 1e-12  # 1 − 0.95 is a little below 0.05 in binary
    return float(curve.true_positive_rate[curve.false_positive_rate <= allowed].max())


def _counts(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Count abnormal and normal images at each distinct score, by falling score."""
    abnormal, values = check_labels_and_scores(labels, scores)
    distinct, position = np.unique(-values, return_inverse=True)
    total = np.bincount(position, minlength=len(distinct))
    positive = np.bincount(position[abnormal], minlength=len(distinct))
    return positive, total - positive, -distinct
