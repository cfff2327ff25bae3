"""What a site makes of a finished run: the models that it could keep, how each did, and which it keeps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from client.service.fit import FitRequest

Origin = Literal["global", "cluster"]
"""What a coordinator can deliver: the model of all sites, or that of the site's cluster."""

CandidateName = Literal["global", "cluster", "personal", "tuned", "local"]
CANDIDATES: Final[tuple[CandidateName, ...]] = get_args(CandidateName)
"""The delivered model comes first, so that it is kept where another is no better."""

Basis = Literal["held-out", "copies"]
"""What models were compared on: normal images held out, or moved copies of the support images."""

MODEL: Final = "model.safetensors"
CONCLUSION: Final = "conclusion.json"


@dataclass(frozen=True)
class Mark:
    """How well a model told synthetic anomalies from normal images.

    Attributes:
        image: Image AUROC in [0, 1].
        pixel: Pixel AUROC in [0, 1].
    """

    image: float
    pixel: float

    @property
    def score(self) -> float:
        """The mean of both, by which models are compared: of so few images the first alone is coarse."""
        return (self.image + self.pixel) / 2


@dataclass(frozen=True)
class FinalRequest:
    """The end of a run, as the site is told of it.

    Attributes:
        last: The last round's work, with the delivered model as its tensors.
        origin: Whose model it is.
        safeguard: Whether the site compares it with others and keeps the best.
    """

    last: FitRequest
    origin: Origin
    safeguard: bool


@dataclass(frozen=True)
class Conclusion:
    """What a site keeps of a run.

    Attributes:
        kept: The model that it keeps.
        marks: How each candidate did; empty where they were not compared.
        basis: What they were compared on, None where they were not.
        images: How many different normal images that was.
    """

    kept: CandidateName
    marks: Mapping[CandidateName, Mark]
    basis: Basis | None = None
    images: int = 0

    def facts(self) -> dict[str, Any]:
        """Write it for the audit log and the model file: names of candidates, numbers and fixed words."""
        return {
            "kept": self.kept,
            "marks": {name: asdict(mark) for name, mark in self.marks.items()},
            "compared_on": self.basis,
            "images": self.images,
        }

    def metrics(self) -> dict[str, float]:
        """Give what a policy may let leave: see :data:`mediclip.protocol.FINAL_METRIC_NAMES`."""
        if not self.marks:
            return {}
        is_delivered = self.kept not in {"tuned", "local"}
        return {"kept_delivered": float(is_delivered), "kept_score": self.marks[self.kept].score}


def choose(marks: Mapping[CandidateName, Mark]) -> CandidateName:
    """Choose the candidate with the highest score; of equal ones the first in :data:`CANDIDATES`.

    Args:
        marks: At least one.

    Returns:
        Its name.
    """
    return max(sorted(marks, key=CANDIDATES.index), key=lambda name: marks[name].score)
