"""From a DICOM file to a grey frame: parse, decode, give values their meaning, show them under the policy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mediclip.data.dicom.faults import Fault, named
from mediclip.data.dicom.header import PALETTE, Header, header_of
from mediclip.data.dicom.levels import Levels
from mediclip.data.dicom.located import Parsed
from mediclip.data.dicom.parse import parsed
from mediclip.data.dicom.pixels import stored_values
from mediclip.data.dicom.policy import shown
from mediclip.data.dicom.region import Box, box_of
from mediclip.data.dicom.tables import palette
from mediclip.data.dicom.values import grey_values
from mediclip.data.policies import Choices
from mediclip.data.raster import Grey
from mediclip.errors import DegenerateImageError, SettingsError


def read_dicom(
    path: Path, *, name: str, frame: int = 0, choices: Choices | None = None
) -> NDArray[np.float32]:
    """Read one frame as grey.

    Colour becomes luma (ITU-R BT.601, in 8 bits as rasters do; of YBR_FULL the Y is taken); grey goes through
    :func:`mediclip.data.dicom.policy.shown`.

    Args:
        path: The file.
        name: What messages call it, such as ``"test image 12"``; never its path.
        frame: Which frame, from 0.
        choices: Policies chosen in place of the usual ones, by modality.

    Returns:
        ``(H, W)`` in [0, 1], 1 is white; of ultrasound the region that shows tissue.

    Raises:
        NotDicomError: If it is no DICOM file.
        TruncatedError: If it ends inside its header or its pixels.
        NoPixelsError: If it holds no pixels.
        InvalidHeaderError: If an attribute that the pixels need is missing or makes no sense.
        TransferSyntaxError: If its transfer syntax is not read.
        DecoderMissingError: If the package that decodes it is not installed.
        DecodeError: If its pixels cannot be decoded.
        EncryptedError: If it is encrypted.
        TooLargeError: If it asks for more than the caps of :mod:`mediclip.data.dicom.limits`.
        DegenerateImageError: If the frame is constant, all padding or holds no number.
        SettingsError: If there is no such frame.
        ImageError: If the file cannot be opened.
    """
    return _unit(read_grey(path, name=name, frame=frame, choices=choices))


def read_grey(path: Path, *, name: str, frame: int = 0, choices: Choices | None = None) -> Grey:
    """Read one frame as :func:`read_dicom`, without making floats of an image of 8 bits.

    Args:
        path: The file.
        name: What messages call it.
        frame: Which frame, from 0.
        choices: Policies chosen in place of the usual ones, by modality.

    Returns:
        ``(H, W)``: uint8 in [0, 255] where all greys are among these, else float32 in [0, 1].

    Raises:
        ImageError: As :func:`read_dicom`.
        SettingsError: If there is no such frame.
    """
    with named(name), parsed(path, name=name) as file:
        header = header_of(file)
        _check_frame(frame, header, name)
        return _shown_frame(file, header, frame, choices)


def iter_frames(path: Path, *, name: str, choices: Choices | None = None) -> Iterator[NDArray[np.float32]]:
    """Read the frames of a file one after the other, each when it is asked for.

    Args:
        path: The file.
        name: What messages call it.
        choices: Policies chosen in place of the usual ones, by modality.

    Yields:
        ``(H, W)`` in [0, 1], as :func:`read_dicom`.

    Raises:
        ImageError: As :func:`read_dicom`, at the first frame that cannot be used.
    """
    with named(name), parsed(path, name=name) as file:
        header = header_of(file)
        for frame in range(header.frames):
            yield _unit(_shown_frame(file, header, frame, choices))


def read_stored(path: Path, *, name: str, frame: int = 0) -> NDArray[Any]:
    """Read the values of a frame as they are stored, without cutting it or giving them a meaning.

    Args:
        path: The file.
        name: What messages call it.
        frame: Which frame, from 0.

    Returns:
        ``(H, W)`` or ``(H, W, 3)``.

    Raises:
        ImageError: As :func:`read_dicom`.
        SettingsError: If there is no such frame.
    """
    with named(name), parsed(path, name=name) as file:
        header = header_of(file)
        _check_frame(frame, header, name)
        return stored_values(file, header, frame)[0]


def read_geometry(path: Path, *, name: str) -> tuple[int, int, Box | None]:
    """Read the size of a frame and what :func:`read_dicom` cuts it to, from the header alone.

    Args:
        path: The file.
        name: What messages call it.

    Returns:
        Height and width before it is cut; and top, left, height and width of what is left, None for all.

    Raises:
        ImageError: If the header cannot be used.
    """
    with named(name), parsed(path, name=name) as file:
        header = header_of(file)
        return header.rows, header.columns, box_of(file.header, header)


def _check_frame(frame: int, header: Header, name: str) -> None:
    if not 0 <= frame < header.frames:
        message = (
            f"The 'frame' of {name} must be in [0, {header.frames - 1}], but it is {frame}; choose another."
        )
        raise SettingsError(message)


def _unit(grey: Grey) -> NDArray[np.float32]:
    """Scale 8 bits to [0, 1]."""
    scale = np.float32(255) if grey.dtype == np.uint8 else np.float32(1)
    return (grey / scale).astype(np.float32, copy=False)


def _shown_frame(file: Parsed, header: Header, frame: int, choices: Choices | None) -> Grey:
    stored, photometric = stored_values(file, header, frame)
    if (box := box_of(file.header, header)) is not None:
        top, left, height, width = box
        stored = stored[top : top + height, left : left + width]
    if photometric == PALETTE:
        stored = palette(file.header, stored)
    if stored.ndim == 3:
        return _luma(stored, photometric, header)
    levels = Levels.of(stored)
    return levels.greys(shown(grey_values(levels, file.header, header, frame), header, choices))


def _luma(stored: NDArray[Any], photometric: str, header: Header) -> Grey:
    """Turn colour into grey (ITU-R BT.601)."""
    grey: Grey
    if stored.dtype == np.uint8:
        grey = np.ascontiguousarray(stored[..., 0])
        if not photometric.startswith("YBR"):
            grey = np.asarray(Image.fromarray(np.ascontiguousarray(stored)).convert("L"))
    else:
        top = 2**header.bits - 1
        weights = [1, 0, 0] if photometric.startswith("YBR") else [0.299, 0.587, 0.114]
        grey = _in_bytes(np.clip(stored / top @ np.array(weights), 0, 1).astype(np.float32))
    if grey.min() == grey.max():
        raise Fault(DegenerateImageError, "show something", "all of it has one grey")
    return grey


def _in_bytes(image: NDArray[np.float32]) -> Grey:
    """Go to 8 bits where these hold all greys of the image."""
    eight = np.rint(image * np.float32(255)).astype(np.uint8)
    return eight if np.array_equal(eight / np.float32(255), image) else image
