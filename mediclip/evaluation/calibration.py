"""Decisions with a wanted false-positive rate, from the scores of a site's own normal images.

Split-conformal: an image is compared with n normal images that the detector has not been made from. If it is
normal and exchangeable with them, its p-value is at most α in at most a share α of cases, whatever the
detector and the images are. What n allows is stated and not stretched: no p-value is below 1 / (n + 1), so at
α = 0.05 at least 19 normal images are needed before anything can be called abnormal.

Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005), section 2.2.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv  # scipy.stats has the same, and takes half a second to import

from mediclip.errors import CheckpointError, DataError, SettingsError

Decision = Literal["normal", "abnormal", "uncertain"]
LEVEL: Final = 0.05
_COVERAGE: Final = 0.9


@dataclass(frozen=True)
class Calibration:
    """The scores of a site's normal images, and for which model and preprocessing they hold.

    Attributes:
        scores: n scores in rising order, of normal images that the model was not made from.
        model: Digest of the model.
        preprocess: Digest of the preprocessing.
    """

    scores: tuple[float, ...]
    model: str
    preprocess: str

    @classmethod
    def of(cls, scores: ArrayLike, *, model: str, preprocess: str) -> "Calibration":
        """Make a calibration of scores in any order.

        Raises:
            DataError: If there is none or one is not finite.
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
            message = (
                "A calibration must have at least 1 normal image, each with a finite score. "
                f"Got {values.size}; give normal images that the model was not trained on."
            )
            raise DataError(message)
        return cls(tuple(np.sort(values).tolist()), model, preprocess)

    @classmethod
    def restore(cls, values: Mapping[str, Any]) -> "Calibration":
        """Make a calibration of what :meth:`facts` gave.

        Raises:
            CheckpointError: If it is not of that form.
        """
        try:
            return cls.of(values["scores"], model=str(values["model"]), preprocess=str(values["preprocess"]))
        except (KeyError, TypeError, ValueError) as error:
            message = (
                "The calibration of a model file must be as 'mediclip calibrate' writes it. It is not; "
                "calibrate again."
            )
            raise CheckpointError(message) from error

    def facts(self) -> dict[str, Any]:
        """Give what a model file keeps."""
        return {**asdict(self), "scores": list(self.scores)}

    def holds_for(self, *, model: str, preprocess: str) -> bool:
        """Say whether it was made for this model and preprocessing; it is void for any other."""
        return self.model == model and self.preprocess == preprocess

    @property
    def least_p(self) -> float:
        """The lowest p-value that n images allow, 1 / (n + 1)."""
        return 1 / (len(self.scores) + 1)

    def p_values(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Compute (1 + the number of normal images with at least this score) / (n + 1).

        Args:
            scores: ``(N,)`` finite.

        Returns:
            ``(N,)`` in [1 / (n + 1), 1].
        """
        below = np.searchsorted(self.scores, np.asarray(scores, np.float64), side="left")
        p: NDArray[np.float64] = (1 + len(self.scores) - below) / (len(self.scores) + 1)
        return p

    def decide(self, score: float, level: float = LEVEL) -> Decision:
        """Call an image abnormal, normal, or uncertain.

        Args:
            score: The image's score.
            level: Wanted false-positive rate α in (0, 1).

        Returns:
            ``abnormal`` where p ≤ α. ``uncertain`` where the score exceeds that of every normal image but n
            is too small to say so at α. Else ``normal``, which says that nothing unusual was found.

        Raises:
            SettingsError: If the level is out of range.
        """
        _check_level(level)
        p = float(self.p_values([score])[0])
        if _allowed(p, level):
            return "abnormal"
        return "uncertain" if p == self.least_p else "normal"

    def threshold(self, level: float = LEVEL) -> float | None:
        """Find the score above which an image is called abnormal.

        Args:
            level: Wanted false-positive rate α in (0, 1).

        Returns:
            The score that must be exceeded, or None where n is too small for anything to be called so.

        Raises:
            SettingsError: If the level is out of range.
        """
        rank = self.rank(level)
        return self.scores[-rank] if rank else None

    def rank(self, level: float = LEVEL) -> int:
        """Count the p-values up to α, ⌊α (n + 1)⌋; 0 says that n is too small."""
        _check_level(level)
        return math.floor(level * (len(self.scores) + 1) + 1e-9)

    def rate_interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Say where the false-positive rate of this very calibration lies with 90 % probability.

        It is distributed as Beta(r, n + 1 − r) over draws of the n images, r being :meth:`rank`, if scores
        have no ties.

        Args:
            level: Wanted false-positive rate α in (0, 1).

        Returns:
            Lower and upper end; both 0 where nothing can be called abnormal.

        Raises:
            SettingsError: If the level is out of range.

        Source: Vovk, Conditional validity of inductive conformal predictors (2012), proposition 2a.
        """
        rank = self.rank(level)
        if rank == 0:
            return 0.0, 0.0
        tail, other = (1 - _COVERAGE) / 2, len(self.scores) + 1 - rank
        return float(betaincinv(rank, other, tail)), float(betaincinv(rank, other, 1 - tail))


@dataclass(frozen=True)
class RealisedDecisions:
    """What a calibration did on a test set.

    Attributes:
        level: Wanted false-positive rate.
        n_calibration: Normal images that calibrated.
        rate: Share of normal test images called abnormal, or None without any.
        rate_interval: Clopper-Pearson interval of that share, 95 %, or None.
        expected_interval: Where :meth:`Calibration.rate_interval` said that the rate lies.
        sensitivity: Share of abnormal test images called abnormal, or None without any.
        f1: F1 of *abnormal* at the calibrated threshold, or None without abnormal images.
        uncertain: Images about which nothing could be said.
    """

    level: float
    n_calibration: int
    rate: float | None
    rate_interval: tuple[float, float] | None
    expected_interval: tuple[float, float]
    sensitivity: float | None
    f1: float | None
    uncertain: int


def realised(
    calibration: Calibration, labels: ArrayLike, scores: ArrayLike, level: float = LEVEL
) -> RealisedDecisions:
    """Compare a calibration's decisions with the truth.

    Args:
        calibration: From images that are not among these.
        labels: ``(N,)`` in {0, 1}, 1 for abnormal.
        scores: ``(N,)`` finite.
        level: Wanted false-positive rate α in (0, 1).

    Returns:
        Rates with their intervals.

    Raises:
        SettingsError: If the level is out of range.
    """
    abnormal = np.asarray(labels, dtype=np.bool_)
    decisions = np.array([calibration.decide(float(s), level) for s in np.asarray(scores)], dtype=object)
    flagged = decisions == "abnormal"
    hits, alarms = int(np.sum(flagged & abnormal)), int(np.sum(flagged & ~abnormal))
    n_abnormal, n_normal = int(abnormal.sum()), int((~abnormal).sum())
    return RealisedDecisions(
        level=level,
        n_calibration=len(calibration.scores),
        rate=alarms / n_normal if n_normal else None,
        rate_interval=share_interval(alarms, n_normal) if n_normal else None,
        expected_interval=calibration.rate_interval(level),
        sensitivity=hits / n_abnormal if n_abnormal else None,
        f1=2 * hits / (n_abnormal + hits + alarms) if n_abnormal else None,
        uncertain=int(np.sum(decisions == "uncertain")),
    )


def share_interval(count: int, total: int, *, coverage: float = 0.95) -> tuple[float, float]:
    """Give the exact interval of a share that was observed.

    Args:
        count: Hits, in [0, total].
        total: Trials, at least 1.
        coverage: In (0, 1).

    Returns:
        Lower and upper end in [0, 1].

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    tail = (1 - coverage) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))
    return low, high


def _allowed(p: float, level: float) -> bool:
    return p <= level * (1 + 1e-9)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        message = f"A false-positive rate must lie in (0, 1). Got {level}; 0.05 is usual."
        raise SettingsError(message)
