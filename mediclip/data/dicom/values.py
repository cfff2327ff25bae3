"""From stored values to what they mean: modality table or rescale, padding, header windows (PS3.3 C.11)."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mediclip.data.dicom.faults import invalid
from mediclip.data.dicom.fields import code, items, numbers
from mediclip.data.dicom.header import Header
from mediclip.data.dicom.levels import Levels
from mediclip.data.dicom.tables import look_up

_RESCALE: Final = "PixelValueTransformationSequence"
_WINDOW: Final = "FrameVOILUTSequence"


@dataclass(frozen=True)
class Grey:
    """A grey frame whose values have a meaning.

    Attributes:
        levels: The stored values.
        values: ``(n,)`` what each level means, in the units of the modality; NaN where it is no number.
        valid: ``(n,)`` False for padding and for what is no number.
        low: The least value that the stored bits can mean; None for floating point.
        high: The largest one.
        hounsfield: Whether values are in Hounsfield units, as far as the file says.
        inverted: Whether the largest value is meant to be black (MONOCHROME1).
        windows: Where window or VOI table stand: the frame's functional group or the header.
    """

    levels: Levels
    values: NDArray[np.float64]
    valid: NDArray[np.bool_]
    low: float | None
    high: float | None
    hounsfield: bool
    inverted: bool
    windows: Dataset = field(repr=False)

    @property
    def counted(self) -> NDArray[np.bool_]:
        """``(n,)`` which levels are valid and there."""
        return self.valid & (self.levels.counts > 0)

    @property
    def ends(self) -> tuple[bool, bool]:
        """Whether the lowest and the highest level, which are always there, are valid."""
        return bool(self.valid[0]), bool(self.valid[-1])


def grey_values(levels: Levels, dataset: Dataset, header: Header, frame: int) -> Grey:
    """Give the levels of a frame their meaning.

    Args:
        levels: Its levels.
        dataset: The attributes of the file.
        header: Its header.
        frame: Which frame, from 0.

    Returns:
        The frame with its meaning; padding and numbers that are none are marked.

    Raises:
        Fault: ``InvalidHeaderError`` if slope, intercept, table or padding make no sense.
    """
    valid = np.isfinite(levels.stored) & ~_padding(levels.stored, dataset, header)
    ends = None if header.floating else np.array(_stored_range(header), dtype=np.float64)
    rescale = _group(dataset, _RESCALE, frame)
    tables = items(dataset, "ModalityLUTSequence")
    if tables and not header.floating:
        values, bits = look_up(tables[0], levels.stored)
        ends = np.array([0, 2**bits - 1], dtype=np.float64)
        units = False
    else:
        slope, intercept = (_single(rescale, f"Rescale{what}") for what in ("Slope", "Intercept"))
        if slope == 0:
            raise invalid(keyword="RescaleSlope", must="other than 0", found="it is 0")
        units = slope is not None and intercept is not None and code(rescale, "RescaleType") in {"", "HU"}
        a, b = 1.0 if slope is None else slope, intercept or 0.0
        values = levels.stored * a + b
        ends = None if ends is None else ends * a + b
    low, high = (None, None) if ends is None else (float(ends.min()), float(ends.max()))
    return Grey(
        levels=levels,
        values=values,
        valid=valid & np.isfinite(values),
        low=low,
        high=high,
        hounsfield=units,
        inverted=header.photometric == "MONOCHROME1",
        windows=_group(dataset, _WINDOW, frame),
    )


def plain_grey(levels: Levels) -> Grey:
    """Take values as they are stored, without a header."""
    valid = np.isfinite(levels.stored)
    return Grey(levels, levels.stored, valid, None, None, hounsfield=False, inverted=False, windows=Dataset())


def header_window(grey: Grey) -> NDArray[np.float64] | None:
    """Show values as the header says: by its first VOI table, else by its first window.

    Args:
        grey: A frame.

    Returns:
        ``(n,)`` in [0, 1], or None where the header has neither, or a window whose width makes no sense.

    Raises:
        Fault: ``InvalidHeaderError`` if a table makes no sense.

    Source: PS3.3 C.11.2.1.2 (window, with the -0.5 and -1 of the linear function) and C.11.2.1.3.
    """
    if tables := items(grey.windows, "VOILUTSequence"):
        entries, bits = look_up(tables[0], grey.values)
        unit: NDArray[np.float64] = entries / (2**bits - 1)
        return unit
    centres, widths = (numbers(grey.windows, f"Window{what}") for what in ("Center", "Width"))
    if not centres or not widths:
        return None
    centre, width = centres[0], widths[0]
    function = code(grey.windows, "VOILUTFunction") or "LINEAR"
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return _windowed(grey.values, centre, width, function)


def _windowed(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            sigmoid: NDArray[np.float64] = 1 / (1 + np.exp(-4 * (values - centre) / width))
        return sigmoid
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _padding(stored: NDArray[np.float64], dataset: Dataset, header: Header) -> NDArray[np.bool_]:
    """Mark padding: one value, or all between that and a limit (PS3.3 C.7.5.1.1.2)."""
    padding = _pad(dataset, "PixelPaddingValue", header)
    if padding is None or header.floating:
        return np.zeros(len(stored), dtype=np.bool_)
    limit = _pad(dataset, "PixelPaddingRangeLimit", header)
    first, last = sorted((padding, padding if limit is None else limit))
    return (stored >= first) & (stored <= last)


def _pad(dataset: Dataset, keyword: str, header: Header) -> float | None:
    value = _single(dataset, keyword)
    if value is not None and header.signed and value >= 2**15 and header.bits_allocated == 16:
        value -= 2**16  # written as unsigned by some
    return value


def _stored_range(header: Header) -> tuple[int, int]:
    if header.signed:
        return -(2 ** (header.bits - 1)), 2 ** (header.bits - 1) - 1
    return 0, 2**header.bits - 1


def _group(dataset: Dataset, keyword: str, frame: int) -> Dataset:
    """Find a functional group: the frame's own, else the shared one, else the header itself (C.7.6.16)."""
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    groups = per_frame[frame : frame + 1] + items(dataset, "SharedFunctionalGroupsSequence")[:1]
    for group in groups:
        if found := items(group, keyword):
            return found[0]
    return dataset


def _single(dataset: Dataset, keyword: str) -> float | None:
    found = numbers(dataset, keyword)
    return found[0] if found else None
