"""What a detector said about a test set, and the numbers that sum it up. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from mediclip.errors import DataError
from mediclip.evaluation.bootstrap import bootstrap_interval
from mediclip.evaluation.image_metrics import image_ap, image_auroc, sensitivity_at_specificity
from mediclip.evaluation.pixel_metrics import PixelMetrics
from mediclip.rng import generator

Interval = tuple[float, float]
METRIC_NAMES: Final = ("image_auroc", "image_ap", "pixel_auroc", "aupro", "best_dice")


class Metrics(TypedDict):
    """The numbers of one test set; None where a metric is undefined.

    Image metrics need both classes, pixel metrics a mask. The intervals cover 95 % of bootstrap draws.
    """

    image_auroc: float | None
    image_auroc_interval: Interval | None
    image_ap: float | None
    image_ap_interval: Interval | None
    sensitivity_at_95_specificity: float | None
    pixel_auroc: float | None
    aupro: float | None
    best_dice: float | None
    n_normal: int
    n_abnormal: int


class Summary(Metrics):
    """The metrics of all images, and beside them those without copies."""

    deduplicated: Metrics


@dataclass(frozen=True)
class Prediction:
    """Scores of a test set in its order, with what is needed to judge them.

    Attributes:
        scores: ``(N,)`` float64 in [0, 1].
        labels: ``(N,)`` bool, True for abnormal.
        unique: ``(N,)`` bool, False for a copy or near-copy of an earlier test image or of a support image.
        pixel: Pixels of all images whose truth is known, or None where the set has no masks.
        unique_pixel: The same for the unique images alone.
        maps: ``(S, S)`` float32 maps in [0, 1] by sample index, of the images that were asked for.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.bool_]
    unique: NDArray[np.bool_]
    pixel: PixelMetrics | None = None
    unique_pixel: PixelMetrics | None = None
    maps: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)


def pool(predictions: Sequence[Prediction]) -> Prediction:
    """Join the predictions of several sites as if they were one test set.

    Args:
        predictions: At least one. Their scores are compared with each other as they are; an image that two
            sites tested counts twice.

    Returns:
        One prediction in the given order, without maps.

    Raises:
        DataError: If there is none.
    """
    if not predictions:
        message = "Pooling must be given at least 1 prediction. Got none; test at least one site."
        raise DataError(message)
    return Prediction(
        scores=np.concatenate([p.scores for p in predictions]),
        labels=np.concatenate([p.labels for p in predictions]),
        unique=np.concatenate([p.unique for p in predictions]),
        pixel=_merged([p.pixel for p in predictions]),
        unique_pixel=_merged([p.unique_pixel for p in predictions]),
    )


def summarise(prediction: Prediction, *, draws: int = 1000, seed: int = 0) -> Summary:
    """Compute every metric of a prediction.

    Args:
        prediction: Scores and labels, and pixel metrics where there are masks.
        draws: Bootstrap draws of the intervals, at least 1.
        seed: The run's seed, any int; the same seed gives the same intervals.

    Returns:
        A dictionary that JSON can hold, keys as in :class:`Summary`.

    Raises:
        DataError: If a score is not finite.
        SettingsError: If ``draws`` is below 1.
    """
    unique = prediction.unique
    plain = _metrics(prediction.scores, prediction.labels, prediction.pixel, draws, seed)
    if unique.all():
        deduplicated = plain.copy()
    else:
        deduplicated = _metrics(
            prediction.scores[unique], prediction.labels[unique], prediction.unique_pixel, draws, seed
        )
    return {**plain, "deduplicated": deduplicated}


def _metrics(
    scores: NDArray[np.float64],
    labels: NDArray[np.bool_],
    pixel: PixelMetrics | None,
    draws: int,
    seed: int,
) -> Metrics:
    auroc_rng = generator(seed, "bootstrap", "image_auroc")
    ap_rng = generator(seed, "bootstrap", "image_ap")
    return {
        "image_auroc": image_auroc(labels, scores),
        "image_auroc_interval": bootstrap_interval(labels, scores, image_auroc, draws=draws, rng=auroc_rng),
        "image_ap": image_ap(labels, scores),
        "image_ap_interval": bootstrap_interval(labels, scores, image_ap, draws=draws, rng=ap_rng),
        "sensitivity_at_95_specificity": sensitivity_at_specificity(labels, scores, specificity=0.95),
        "pixel_auroc": pixel.pixel_auroc() if pixel else None,
        "aupro": pixel.aupro() if pixel else None,
        "best_dice": pixel.best_dice() if pixel else None,
        "n_normal": int(np.sum(~labels)),
        "n_abnormal": int(np.sum(labels)),
    }


def _merged(parts: Sequence[PixelMetrics | None]) -> PixelMetrics | None:
    counted = [p for p in parts if p is not None]
    if not counted:
        return None
    whole = PixelMetrics(bins=counted[0].bins)
    for part in counted:
        whole.merge(part)
    return whole
