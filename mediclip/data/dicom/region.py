"""The part of an ultrasound frame that shows tissue (PS3.3 C.8.5.5)."""

from typing import Final

from pydicom.dataset import Dataset

from mediclip.data.dicom.fields import items, whole
from mediclip.data.dicom.header import Header
from mediclip.data.policies import policy_of

Box = tuple[int, int, int, int]
_EDGES: Final = (
    "RegionLocationMinX0",
    "RegionLocationMinY0",
    "RegionLocationMaxX1",
    "RegionLocationMaxY1",
)
_TWO_DIMENSIONAL: Final = 1
_LEAST_SIDE: Final = 8


def box_of(dataset: Dataset, header: Header) -> Box | None:
    """Find what to cut a frame to.

    Args:
        dataset: The attributes of the file.
        header: Its header.

    Returns:
        Top, left, height and width in pixels of the largest two-dimensional region, clamped to the frame;
        None to leave the frame whole: no ultrasound, no region, or none with 8 pixels to a side.

    Raises:
        Fault: ``InvalidHeaderError`` if a region has no usable edges.
    """
    if not policy_of(header.modality).crop:
        return None
    boxes = [_clamped(item, header) for item in items(dataset, "SequenceOfUltrasoundRegions")]
    usable = [box for box in boxes if box is not None and min(box[2:]) >= _LEAST_SIDE]
    largest = max(usable, key=lambda box: box[2] * box[3], default=None)
    return None if largest == (0, 0, header.rows, header.columns) else largest


def _clamped(item: Dataset, header: Header) -> Box | None:
    if whole(item, "RegionSpatialFormat", 0, 2**16 - 1, 0) != _TWO_DIMENSIONAL:
        return None
    left, top, right, bottom = (whole(item, edge, -(2**31), 2**32 - 1) for edge in _EDGES)
    left, top = max(left, 0), max(top, 0)
    # Both edges belong to the region; some scanners give the first pixel outside, or one beyond the frame.
    right, bottom = min(right, header.columns - 1), min(bottom, header.rows - 1)
    return top, left, bottom - top + 1, right - left + 1
