"""How values become grey under the policy of their modality."""

import numpy as np
from numpy.typing import NDArray

from mediclip.data.dicom.faults import Fault
from mediclip.data.dicom.header import Header
from mediclip.data.dicom.levels import Levels, percentiles
from mediclip.data.dicom.values import Grey, header_window, plain_grey
from mediclip.data.policies import (
    CT_WINDOWS,
    HIGH_PERCENT,
    LOW_PERCENT,
    SHALLOW_BITS,
    SOFT_TISSUE,
    Choices,
    Policy,
    policy_of,
)
from mediclip.errors import DegenerateImageError


def shown(grey: Grey, header: Header, choices: Choices | None = None) -> NDArray[np.float64]:
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
        choices: Policies chosen in place of the usual ones, by modality.

    Returns:
        ``(n,)`` in [0, 1] for each level, 1 is white; padding is 0.

    Raises:
        Fault: ``DegenerateImageError`` if there is nothing but padding, or one grey.
    """
    if not any(grey.ends) and not np.any(grey.counted):
        raise Fault(DegenerateImageError, "show something", "it is all padding or holds no number")
    return _finished(grey, _shown(policy_of(header.modality, choices), grey, header))


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
    if policy.name == "ct-window" and grey.hounsfield:
        centre, width = CT_WINDOWS.get(header.body_part, SOFT_TISSUE)
        return _scaled(grey.values, centre - width / 2, centre + width / 2)
    if policy.name in {"ct-window", "header-voi"} and (unit := header_window(grey)) is not None:
        return unit
    deep = policy.name == "by-depth" and header.bits > SHALLOW_BITS
    shallow = policy.name != "foreground-percentiles" and not deep
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
        ends = percentiles(here[front], counts[front], (LOW_PERCENT, HIGH_PERCENT))
        if ends[0] < ends[1]:
            low, high = ends
    unit = _scaled(values, low, high)
    return 1 - unit if grey.inverted else unit


def _scaled(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    if low == high:
        return np.zeros(len(values))
    return np.clip((values - low) / (high - low), 0, 1)
