"""DICOM as one of the formats: what :mod:`mediclip.data.formats` asks of a reader."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mediclip.data.dicom import reader
from mediclip.data.dicom.reader import read_geometry, read_stored
from mediclip.data.policies import Choices
from mediclip.data.raster import Grey
from mediclip.errors import ImageError, MaskError


def read_grey(path: Path, *, name: str, frame: int | None = None, choices: Choices | None = None) -> Grey:
    """Read a frame as grey.

    Args:
        path: The file.
        name: What messages call it.
        frame: Which frame, from 0; the first when omitted.
        choices: Policies chosen in place of the usual ones, by modality.

    Returns:
        ``(H, W)``: uint8 where 8 bits are shown as they are stored, else float32 in [0, 1].

    Raises:
        ImageError: If the file cannot be used; see :func:`mediclip.data.dicom.read_dicom`.
    """
    return reader.read_grey(path, name=name, frame=frame or 0, choices=choices)


def read_mask(path: Path, *, name: str, frame: int | None = None) -> NDArray[np.bool_]:
    """Read a mask: whatever is stored and not 0.

    Args:
        path: The file, for example a segmentation of one segment.
        name: What messages call it.
        frame: Which frame, from 0; the first when omitted.

    Returns:
        ``(H, W)``, True where abnormal.

    Raises:
        MaskError: If the file cannot be used.
    """
    try:
        stored = read_stored(path, name=name, frame=frame or 0)
    except ImageError as error:
        raise MaskError(str(error)) from None
    return np.not_equal(stored if stored.ndim == 2 else stored.any(axis=2), 0)


def read_box(path: Path, *, name: str) -> tuple[int, int, int, int] | None:
    """Read what a frame is cut to: top, left, height and width in pixels; None where it is left whole."""
    return read_geometry(path, name=name)[2]


def read_shape(path: Path, *, name: str) -> tuple[int, int]:
    """Read height and width of a frame before it is cut, from the header alone."""
    return read_geometry(path, name=name)[:2]
