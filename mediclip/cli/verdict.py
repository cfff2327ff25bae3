"""What a calibrated model decided on a test set, for ``mediclip evaluate``."""

from mediclip.cli.loading import Detector
from mediclip.evaluation.calibration import RealisedDecisions, realised
from mediclip.evaluation.prediction import Prediction


def judge_decisions(detector: Detector, prediction: Prediction, level: float) -> RealisedDecisions | None:
    """Compare a calibrated model's decisions with the truth; None where it is not calibrated."""
    if detector.calibration is None:
        return None
    return realised(detector.calibration, prediction.labels, prediction.scores, level)


def describe_verdict(detector: Detector, decided: RealisedDecisions | None) -> str:
    """Say in one or two sentences what the decisions were worth."""
    if decided is None and detector.is_void:
        return "Decisions: none, since the model has changed since it was calibrated; calibrate it again."
    if decided is None:
        return "Decisions: none, since the model is not calibrated; see 'mediclip calibrate'."
    low, high = decided.expected_interval
    if high == 0:
        return (
            f"Decisions: at {decided.level:.0%} nothing can be called abnormal with {decided.n_calibration} "
            f"calibration scans; {decided.uncertain} scans are uncertain."
        )
    rate, f1, found = (
        "–" if v is None else f"{v:.3f}" for v in (decided.rate, decided.f1, decided.sensitivity)
    )
    span = "" if decided.rate_interval is None else " \\[{:.3f}, {:.3f}]".format(*decided.rate_interval)
    return (
        f"Decisions at {decided.level:.0%}: false-positive rate {rate}{span}, expected in \\[{low:.3f}, "
        f"{high:.3f}] with {decided.n_calibration} calibration scans; sensitivity {found}, F1 {f1}."
    )
