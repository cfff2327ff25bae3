"""Which reader a file gets: decided once, here, by the file's first bytes.

The functions ``read_...`` decode in this process. What comes from outside is read through
:class:`mediclip.data.pool.DecoderPool`, which asks the same of a process that can be ended.

A new kind of scan is one more entry of ``FORMATS``: its readers return what those of
:mod:`mediclip.data.raster` return, and nothing else in the project changes. By its extension is known only
what has no signature: a DICOM dataset without preamble, a compressed NIfTI file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mediclip.data import raster
from mediclip.data.policies import Choices
from mediclip.data.raster import Grey
from mediclip.data.signatures import DICOM_SUFFIXES, NIFTI_SUFFIXES, is_dicom, is_nifti
from mediclip.data.source import opened
from mediclip.errors import DataError, ImageError, MaskError

# A DICOM file's signature ends at byte 132, a NIfTI file's at byte 348.
HEAD_BYTES: Final = 352
# Each reader has caps of its own; a DICOM file of many frames has gigabytes.
_MAX_BYTES: Final = 2**40
Box = tuple[int, int, int, int]


class _GreyReader(Protocol):
    def __call__(
        self, path: Path, *, name: str, frame: int | None = None, choices: Choices | None = None
    ) -> Grey: ...


class _MaskReader(Protocol):
    def __call__(self, path: Path, *, name: str, frame: int | None = None) -> NDArray[np.bool_]: ...


class _ShapeReader(Protocol):
    def __call__(self, path: Path, *, name: str) -> tuple[int, int]: ...


class _BoxReader(Protocol):
    def __call__(self, path: Path, *, name: str) -> Box | None: ...


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        suffixes: Extensions in lower case, by which images are found in a folder.
        matches: Tells from the first ``HEAD_BYTES`` bytes and the extension whether a file is of this kind.
        read_grey: See :func:`read_image`.
        read_mask: See :func:`read_mask`.
        read_shape: See :func:`read_shape`.
        read_box: See :func:`read_box`.
    """

    suffixes: tuple[str, ...]
    matches: Callable[[bytes, str], bool]
    read_grey: _GreyReader
    read_mask: _MaskReader
    read_shape: _ShapeReader
    read_box: _BoxReader


def _raster_grey(path: Path, *, name: str, frame: int | None = None, choices: Choices | None = None) -> Grey:
    del frame, choices  # a raster has one frame, and its values are greys
    return raster.read_grey(path, name=name)


def _raster_mask(path: Path, *, name: str, frame: int | None = None) -> NDArray[np.bool_]:
    del frame  # a mask may be drawn for one frame of its image
    return raster.read_mask(path, name=name)


def _no_box(path: Path, *, name: str) -> None:
    del path, name


def _readers(module: str) -> Any:  # noqa: ANN401 - the four protocols above, in their order
    """Make readers that import their module when a file needs them: pydicom and nibabel take a second."""

    def later(function: str) -> Callable[..., Any]:
        def read(path: Path, **how: Any) -> Any:  # noqa: ANN401
            return getattr(import_module(module), function)(path, **how)

        return read

    return map(later, ("read_grey", "read_mask", "read_shape", "read_box"))


RASTER: Final = Format(
    raster.SUFFIXES,
    lambda head, _: raster.is_raster(head),
    _raster_grey,
    _raster_mask,
    raster.read_shape,
    _no_box,
)
DICOM: Final = Format(DICOM_SUFFIXES, is_dicom, *_readers("mediclip.data.dicom.format"))
NIFTI: Final = Format(NIFTI_SUFFIXES, is_nifti, *_readers("mediclip.data.nifti"))
# DICOM first: its preamble may be a TIFF header, for readers of either kind (PS3.10, section 7.1).
FORMATS: Final = (DICOM, NIFTI, RASTER)
SUFFIXES: Final = frozenset(suffix for f in FORMATS for suffix in f.suffixes)


def suffix_of(path: PurePath) -> str:
    """Return a file's extension in lower case; ``.nii.gz`` is one.

    Args:
        path: The file.

    Returns:
        The extension with its dot; empty if there is none.
    """
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else PurePath(name).suffix


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
        DataError: Of the type ``error``, if the file is missing, unreadable or empty.
    """
    with opened(path, name=name, error=error, max_bytes=_MAX_BYTES) as stream:
        head = stream.read(HEAD_BYTES)
    suffix = suffix_of(path)
    return next((f for f in FORMATS if f.matches(head, suffix)), RASTER)


def read_image(path: Path, *, name: str, frame: int | None = None, choices: Choices | None = None) -> Grey:
    """Read any image as grey.

    Args:
        path: The file.
        name: What messages call it, such as ``"test image 12"``.
        frame: Which frame of a file with several, from 0; when omitted the one that stands for the file: the
            first, or the middle slice of a volume.
        choices: Policies of DICOM chosen in place of the usual ones, by modality.

    Returns:
        ``(H, W)``: uint8 in [0, 255] where the source has 8 bits, float32 in [0, 1] where it has more.

    Raises:
        ImageError: If the file cannot be used.
        SettingsError: If there is no such frame.
    """
    return format_of(path, name=name).read_grey(path, name=name, frame=frame, choices=choices)


def read_stored(path: Path, *, name: str, frame: int | None = None) -> NDArray[np.float32]:
    """Read the values of an image before any policy gives them a meaning, to look at how they are spread.

    Args:
        path: The file.
        name: What messages call it.
        frame: As :func:`read_image`.

    Returns:
        ``(H, W)``: of DICOM what is stored (of colour the mean), of other formats what :func:`read_image`
        returns.

    Raises:
        ImageError: If the file cannot be used.
        SettingsError: If there is no such frame.
    """
    if (found := format_of(path, name=name)) is not DICOM:
        return found.read_grey(path, name=name, frame=frame).astype(np.float32)
    from mediclip.data.dicom.reader import read_stored as read_dicom_stored  # noqa: PLC0415 - takes a second

    stored = read_dicom_stored(path, name=name, frame=frame or 0)
    plane = stored.mean(axis=2) if stored.ndim == 3 else stored
    return np.asarray(plane, dtype=np.float32)


def read_mask(path: Path, *, name: str, frame: int | None = None) -> NDArray[np.bool_]:
    """Read any mask.

    Args:
        path: The file.
        name: What messages call it, such as ``"the mask of test image 12"``.
        frame: Which frame of a file with several, as :func:`read_image`.

    Returns:
        ``(H, W)``, True where abnormal.

    Raises:
        MaskError: If the file cannot be used.
    """
    return format_of(path, name=name, error=MaskError).read_mask(path, name=name, frame=frame)


def read_shape(path: Path, *, name: str) -> tuple[int, int]:
    """Read the height and width of an image before :func:`read_image` cuts it, without decoding if possible.

    Args:
        path: The file.
        name: What messages call it.

    Returns:
        Height and width in pixels.

    Raises:
        ImageError: If the file cannot be used.
    """
    return format_of(path, name=name).read_shape(path, name=name)


def read_box(path: Path, *, name: str) -> Box | None:
    """Read what :func:`read_image` cuts an image to, which its mask has to follow.

    Args:
        path: The file.
        name: What messages call it.

    Returns:
        Top, left, height and width in pixels; None where the image is left whole.

    Raises:
        ImageError: If the file cannot be used.
    """
    return format_of(path, name=name).read_box(path, name=name)
