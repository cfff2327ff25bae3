"""Pixel metrics that stream: any number of images in the memory of three histograms.

With 65,536 bins of 8 bytes the three take 1.5 MiB, whatever the number of images, pixels or lesions; while a
batch is counted, at most about 40 bytes for each of its pixels come on top.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mediclip.errors import DataError
from mediclip.evaluation.curves import Floats, area_under, cumulative_share

BINS: Final = 65_536
_EIGHT_NEIGHBOURS: Final = ((1, 1, 1), (1, 1, 1), (1, 1, 1))
_NO_NEIGHBOURS: Final = ((0, 0, 0), (0, 0, 0), (0, 0, 0))


class PixelMetrics:
    """Histograms of anomaly values, from which every pixel metric is computed.

    Values that fall into one bin count as ties, so the AUROC differs from the exact one by at most half the
    sum over bins of the shares of abnormal and of normal pixels in it, multiplied.
    A softmax without temperature lies near 0.5; a tenth of the range still has 6,553 bins.

    For the region overlap each abnormal pixel weighs 1 / (pixels of its connected lesion). The weights at or
    above a threshold then sum to Σ over lesions of the share of it that is covered, which is exactly the
    number that AUPRO needs, so lesions need no histogram of their own.

    Attributes:
        bins: Number of equal bins over [0, 1], best a power of two.
        normal: ``(bins,)`` int64 counts of normal pixels, of normal and abnormal images alike.
        abnormal: ``(bins,)`` int64 counts of pixels inside a mask.
        overlap: ``(bins,)`` float64 sums of abnormal pixels' weights.
        regions: Connected lesions seen.
    """

    def __init__(self, *, bins: int = BINS) -> None:
        self.bins = bins
        self.normal: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.abnormal: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.overlap: Floats = np.zeros(bins, np.float64)
        self.regions = 0

    def update(self, maps: NDArray[np.floating], masks: NDArray[np.bool_]) -> None:
        """Count one batch.

        Args:
            maps: ``(B, H, W)`` anomaly values in [0, 1].
            masks: ``(B, H, W)`` bool, True on the lesion, all False for a normal image.

        Raises:
            DataError: If shapes or types do not fit or a value lies outside [0, 1]; nothing is counted then.
        """
        _check(maps, masks)
        # Scaling by a power of two is exact, so no value moves over the edge of its bin. Half precision would
        # overflow at 65,536.
        wide = maps.astype(np.result_type(maps, np.float32), copy=False)
        position = np.minimum((wide * self.bins).astype(np.int32), self.bins - 1)
        # Lesions touch through edges and corners, never from one image of the batch to the next.
        lesion, regions = ndimage.label(
            masks, structure=np.array((_NO_NEIGHBOURS, _EIGHT_NEIGHBOURS, _NO_NEIGHBOURS))
        )
        inside, lesion = position[masks], lesion[masks]
        weight = 1.0 / np.bincount(lesion, minlength=regions + 1)[1:]
        self.normal += np.bincount(position[~masks], minlength=self.bins)
        self.abnormal += np.bincount(inside, minlength=self.bins)
        self.overlap += np.bincount(inside, weights=weight[lesion - 1], minlength=self.bins)
        self.regions += regions

    def merge(self, other: "PixelMetrics") -> None:
        """Add what another one has counted, as if this one had seen those images too.

        Args:
            other: Metrics with the same number of bins; it stays as it is.

        Raises:
            DataError: If the numbers of bins differ.
        """
        if other.bins != self.bins:
            message = (
                f"Pixel metrics must have the same number of bins to be merged. Got {self.bins} and "
                f"{other.bins}; make both with the same 'bins'."
            )
            raise DataError(message)
        self.normal += other.normal
        self.abnormal += other.abnormal
        self.overlap += other.overlap
        self.regions += other.regions

    def pixel_auroc(self) -> float | None:
        """Compute the area under the ROC of all pixels.

        Returns:
            A value in [0, 1], or None unless there are both normal and abnormal pixels.
        """
        if not self.is_defined():
            return None
        return area_under(cumulative_share(self.normal[::-1]), cumulative_share(self.abnormal[::-1]))

    def aupro(self, fpr_limit: float = 0.3) -> float | None:
        """Compute the area under the per-region overlap up to a false-positive rate, divided by that rate.

        The overlap at a threshold is the mean over lesions of the covered share; the false-positive rate is
        taken over the normal pixels of all images, normal images included.

        Args:
            fpr_limit: Right end of the integral, in (0, 1].

        Returns:
            A value in [0, 1], or None unless there are both normal and abnormal pixels.

        Source:
            Bergmann et al., IJCV 129 (2021), section 5.2: lesions are 8-connected and the curve is cut at the
            limit by linear interpolation, as in their evaluation code.
        """
        if not self.is_defined():
            return None
        area = area_under(
            cumulative_share(self.normal[::-1]), cumulative_share(self.overlap[::-1]), limit=fpr_limit
        )
        return area / fpr_limit

    def best_dice(self) -> float | None:
        """Find the largest Dice over all thresholds, over the pixels of all images together.

        One threshold serves all images. It is chosen on the data that is scored: an upper bound, not a
        decision rule.

        Returns:
            2 TP / (2 TP + FP + FN) in (0, 1], or None unless there are both normal and abnormal pixels.
        """
        if not self.is_defined():
            return None
        hit = np.cumsum(self.abnormal[::-1])
        flagged = hit + np.cumsum(self.normal[::-1])
        return float(np.max(2.0 * hit / (flagged + hit[-1])))

    def is_defined(self) -> bool:
        """Say whether both normal and abnormal pixels were seen."""
        return bool(self.regions and self.normal.any())


def _check(maps: NDArray[np.floating], masks: NDArray[np.bool_]) -> None:
    if maps.ndim != 3 or maps.shape != masks.shape:
        message = (
            "Maps and masks must both have shape (B, H, W). "
            f"Got {maps.shape} and {masks.shape}; give one mask of the same size per map."
        )
        raise DataError(message)
    if masks.dtype != np.bool_ or not np.issubdtype(maps.dtype, np.floating):
        message = (
            "Maps must be floating point and masks bool. "
            f"Got {maps.dtype} and {masks.dtype}; convert them before counting."
        )
        raise DataError(message)
    # Written so that NaN, which compares false with everything, is caught as well.
    fits = [bool(m.size == 0 or (m.min() >= 0 and m.max() <= 1)) for m in maps]
    if not all(fits):
        message = (
            f"Anomaly values must lie in [0, 1]. Map {fits.index(False)} of the batch has a value that does "
            "not; give probabilities, not logits, and check that the model was trained without overflow."
        )
        raise DataError(message)
