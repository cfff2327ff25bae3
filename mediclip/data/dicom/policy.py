"""How values become grey: one named and versioned policy for each modality.

Header windows of MR, CR and US depend on who sat at the console, and CT has none or several, so that a model
would see the same tissue in other greys from site to site. What is fixed here is part of the preprocessing
that a model file names: whatever would change a pixel is a new version.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mediclip.data.dicom.faults import Fault
from mediclip.data.dicom.header import Header
from mediclip.data.dicom.levels import Levels, percentile
from mediclip.data.dicom.values import Grey, header_window, plain_grey
from mediclip.errors import DegenerateImageError

Window = tuple[float, float]
Settings = Mapping[str, object]


@dataclass(frozen=True)
class Policy:
    """How the grey frames of some modalities are shown.

    Attributes:
        name: ``ct-window``, ``foreground-percentiles``, ``header-voi``, ``stored-range`` or ``by-depth``.
        version: Goes up with whatever would change a pixel.
        settings: Its numbers.
        crop: Whether a frame is cut to its ultrasound region.
    """

    name: str
    version: int
    settings: Settings = field(default_factory=dict)
    crop: bool = False

    def facts(self) -> dict[str, object]:
        """Return name, version and all numbers, as JSON can hold them."""
        return {"name": self.name, "version": self.version, "crop": self.crop, **self.settings}


_HEAD: Final[Window] = (40, 80)
_LUNG: Final[Window] = (-600, 1500)
_SOFT: Final[Window] = (40, 400)
_BONE: Final[Window] = (400, 1800)
_BONY: Final = (
    *("ANKLE", "ARM", "CLAVICLE", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT", "HAND", "HIP"),
    *("JAW", "KNEE", "LEG", "LSPINE", "SHOULDER", "SPINE", "SSPINE", "TOE", "TSPINE", "WRIST"),
)
CT_WINDOWS: Final[Mapping[str, Window]] = {
    **dict.fromkeys(("BRAIN", "HEAD", "SKULL"), _HEAD),
    **dict.fromkeys(("CHEST", "LUNG", "THORAX"), _LUNG),
    **dict.fromkeys(_BONY, _BONE),
}
"""Centre and width in Hounsfield units by body part (DICOM PS3.16 annex L); soft tissue where not listed."""

_CT: Final = Policy("ct-window", 1, {"windows": CT_WINDOWS, "other": _SOFT})
_LOW_PERCENT: Final = 0.5
_HIGH_PERCENT: Final = 99.5
_PERCENTILES: Final = Policy("foreground-percentiles", 1, {"low": _LOW_PERCENT, "high": _HIGH_PERCENT})
_HEADER: Final = Policy("header-voi", 1)
_STORED: Final = Policy("stored-range", 1, crop=True)
_SHALLOW_BITS: Final = 8
DEFAULT: Final = Policy("by-depth", 1, {"stored_range_up_to_bits": _SHALLOW_BITS})
POLICIES: Final[Mapping[str, Policy]] = {
    "CT": _CT,
    **dict.fromkeys(("MR", "NM", "PT"), _PERCENTILES),
    **dict.fromkeys(("CR", "DX", "IO", "MG", "PX", "RF", "RG", "XA"), _HEADER),
    "US": _STORED,
    "NIfTI": _PERCENTILES,  # no modality of DICOM, which has capitals only
}
"""Policy by modality; ``DEFAULT`` for the others."""


def policy_of(modality: str) -> Policy:
    """Find the policy of a modality.

    Args:
        modality: Its code, such as ``"MR"``.

    Returns:
        The policy.
    """
    return POLICIES.get(modality, DEFAULT)


def policies_digest() -> str:
    """Return the SHA-256 of all policies in canonical JSON, as hexadecimal."""
    facts = {modality: policy.facts() for modality, policy in POLICIES.items()}
    text = json.dumps({**facts, "": DEFAULT.facts()}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def shown(grey: Grey, header: Header) -> NDArray[np.float64]:
    """Show a grey frame under the policy of its modality.

    =========================  ================================================================
    ``ct-window``              a fixed window by body part where values are in Hounsfield units,
                               else ``header-voi`` (localisers, secondary captures)
    ``foreground-percentiles`` the 0.5th to 99.5th percentile of what is above the darkest value
    ``header-voi``             the first VOI table or window of the header, else ``stored-range``
    ``stored-range``           all that the stored bits can hold
    ``by-depth``               ``stored-range`` up to 8 bits, ``foreground-percentiles`` above
    =========================  ================================================================

    Floating point has no range of its own: where one would be taken, percentiles are.

    Args:
        grey: The frame.
        header: Its header.

    Returns:
        ``(n,)`` in [0, 1] for each level, 1 is white; padding is 0.

    Raises:
        Fault: ``DegenerateImageError`` if there is nothing but padding, or one grey.
    """
    if not any(grey.ends) and not np.any(grey.counted):
        raise Fault(DegenerateImageError, "show something", "it is all padding or holds no number")
    return _finished(grey, _shown(policy_of(header.modality), grey, header))


def shown_by_percentiles(levels: Levels) -> NDArray[np.float64]:
    """Show the levels of an image that no header describes, from percentile to percentile of its foreground.

    Args:
        levels: Its levels.

    Returns:
        ``(n,)`` in [0, 1] for each level; 0 where it is no number.

    Raises:
        Fault: ``DegenerateImageError`` as :func:`shown`.
    """
    grey = plain_grey(levels)
    if not any(grey.ends) and not np.any(grey.counted):
        raise Fault(DegenerateImageError, "show something", "it holds no number")
    return _finished(grey, _percentiles(grey))


def _finished(grey: Grey, unit: NDArray[np.float64]) -> NDArray[np.float64]:
    if grey.inverted:
        unit = 1 - unit
    unit = np.where(grey.valid, unit, 0)
    if all(grey.ends) and unit[0] != unit[-1]:
        return unit  # two greys are seen, without counting pixels
    seen = unit[grey.counted]
    if seen.min() == seen.max():
        raise Fault(DegenerateImageError, "show something", "all of it has one grey under its policy")
    return unit


def _shown(policy: Policy, grey: Grey, header: Header) -> NDArray[np.float64]:
    if policy is _CT and grey.hounsfield:
        centre, width = CT_WINDOWS.get(header.body_part, _SOFT)
        return _scaled(grey.values, centre - width / 2, centre + width / 2)
    if policy in (_CT, _HEADER) and (unit := header_window(grey)) is not None:
        return unit
    shallow = policy is not _PERCENTILES and (policy is not DEFAULT or header.bits <= _SHALLOW_BITS)
    if shallow and grey.low is not None and grey.high is not None:
        return _scaled(grey.values, grey.low, grey.high)
    return _percentiles(grey)


def _percentiles(grey: Grey) -> NDArray[np.float64]:
    """Scale from percentile to percentile of the foreground: whatever is brighter than the darkest value.

    Air that was set to 0 would otherwise fill the lower percentile; where the two coincide, as in a picture
    of two greys, the whole range is taken.
    """
    values = -grey.values if grey.inverted else grey.values
    counted = grey.counted
    here, counts = values[counted], grey.levels.counts[counted]
    front = here > here.min()
    low, high = float(here.min()), float(here.max())
    if front.any():
        ends = [percentile(here[front], counts[front], percent) for percent in (_LOW_PERCENT, _HIGH_PERCENT)]
        if ends[0] < ends[1]:
            low, high = ends
    unit = _scaled(values, low, high)
    return 1 - unit if grey.inverted else unit


def _scaled(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    if low == high:
        return np.zeros(len(values))
    return np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
