"""All metrics under one name: those of images and those of pixels."""

from mediclip.evaluation.image_metrics import (
    RocCurve,
    image_ap,
    image_auroc,
    roc_curve,
    sensitivity_at_specificity,
)
from mediclip.evaluation.pixel_metrics import PixelMetrics

__all__ = [
    "PixelMetrics",
    "RocCurve",
    "image_ap",
    "image_auroc",
    "roc_curve",
    "sensitivity_at_specificity",
]
