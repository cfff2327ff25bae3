"""What metrics are called and how they are put into words, the same on every page."""

from typing import Final

from mediclip.evaluation.cases import rank_among_normals
from mediclip.evaluation.prediction import Metrics, Prediction
from mediclip.reports.page import Measure

# Name, and what it says to somebody who does not know it.
METRIC_TITLES: Final = {
    "image_auroc": ("Image AUROC", "chance that an abnormal scan scores above a normal one"),
    "image_ap": ("Average precision", "how pure the top of the list is, from the highest score down"),
    "sensitivity_at_95_specificity": (
        "Sensitivity at 95 % specificity",
        "abnormal scans found while 1 normal scan in 20 is flagged",
    ),
    "pixel_auroc": ("Pixel AUROC", "chance that a lesion's pixel is warmer than a healthy one"),
    "aupro": ("AUPRO", "share of each lesion covered, up to 30 % of healthy pixels flagged"),
    "best_dice": ("Best Dice", "overlap with the lesions at the best single threshold, chosen in hindsight"),
}


def measure(metrics: Metrics, name: str, *, is_flagged: bool = False) -> Measure:
    """Look a metric up together with its interval, where it has one.

    Args:
        metrics: Of one test set.
        name: A key of :data:`METRIC_TITLES`.
        is_flagged: Whether to mark it as worse than it should be.

    Returns:
        The number for a table or tile.
    """
    values = dict(metrics)
    value, interval = values[name], values.get(f"{name}_interval")
    return Measure(
        value if isinstance(value, float) else None,
        (interval[0], interval[1]) if isinstance(interval, tuple | list) else None,
        is_flagged=is_flagged,
    )


def describe_rank(score: float, prediction: Prediction) -> str:
    """Say where a score stands among those of the normal images.

    Args:
        score: The score to place.
        prediction: The whole test set.

    Returns:
        Such as ``"above 97 % of the normal scans"``; empty where there is no normal image.
    """
    rank = rank_among_normals(score, prediction.labels, prediction.scores)
    if rank is None:
        return ""
    return f"above {'all' if rank == 1 else f'{100 * rank:.0f} %'} of the normal scans"
