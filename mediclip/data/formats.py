"""Which reader a file gets: decided once, here, by the file's first bytes.

A new kind of scan (DICOM, NIfTI) is one more entry of ``FORMATS``: its readers return what those of
:mod:`mediclip.data.raster` return, and nothing else in the project changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mediclip.data import raster
from mediclip.data.raster import Grey
from mediclip.data.source import opened
from mediclip.errors import DataError, ImageError, MaskError

# A DICOM file's signature ends at byte 132.
HEAD_BYTES: Final = 256


class _GreyReader(Protocol):
    def __call__(self, path: Path, *, name: str) -> Grey: ...


class _MaskReader(Protocol):
    def __call__(self, path: Path, *, name: str) -> NDArray[np.bool_]: ...


class _ShapeReader(Protocol):
    def __call__(self, path: Path, *, name: str) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        suffixes: Extensions in lower case, by which images are found in a folder.
        matches: Tells from the first ``HEAD_BYTES`` bytes whether a file is of this kind.
        read_grey: See :func:`read_image`.
        read_mask: See :func:`read_mask`.
        read_shape: See :func:`read_shape`.
    """

    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    read_grey: _GreyReader
    read_mask: _MaskReader
    read_shape: _ShapeReader


RASTER: Final = Format(
    raster.SUFFIXES, raster.is_raster, raster.read_grey, raster.read_mask, raster.read_shape
)
FORMATS: Final = (RASTER,)
SUFFIXES: Final = frozenset(suffix for f in FORMATS for suffix in f.suffixes)


def format_of(path: Path, *, name: str, error: type[DataError] = ImageError) -> Format:
    """Find the reader of a file by its content.

    Args:
        path: The file.
        name: What messages call it.
        error: What to raise when the file cannot be opened.

    Returns:
        The first format that knows the signature; the raster reader, whose message says what is accepted,
        when none does.

    Raises:
        DataError: Of the type ``error``, if the file is missing, unreadable, empty or too large.
    """
    with opened(path, name=name, error=error) as stream:
        head = stream.read(HEAD_BYTES)
    return next((f for f in FORMATS if f.matches(head)), RASTER)


def read_image(path: Path, *, name: str) -> Grey:
    """Read any image as grey.

    Args:
        path: The file.
        name: What messages call it, such as ``"test image 12"``.

    Returns:
        ``(H, W)``: uint8 in [0, 255] where the source has 8 bits, float32 in [0, 1] where it has more.

    Raises:
        ImageError: If the file cannot be used.
    """
    return format_of(path, name=name).read_grey(path, name=name)


def read_mask(path: Path, *, name: str) -> NDArray[np.bool_]:
    """Read any mask.

    Args:
        path: The file.
        name: What messages call it, such as ``"the mask of test image 12"``.

    Returns:
        ``(H, W)``, True where abnormal.

    Raises:
        MaskError: If the file cannot be used.
    """
    return format_of(path, name=name, error=MaskError).read_mask(path, name=name)


def read_shape(path: Path, *, name: str) -> tuple[int, int]:
    """Read the height and width that :func:`read_image` would return, without decoding where possible.

    Args:
        path: The file.
        name: What messages call it.

    Returns:
        Height and width in pixels.

    Raises:
        ImageError: If the file cannot be used.
    """
    return format_of(path, name=name).read_shape(path, name=name)
