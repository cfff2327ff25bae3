"""Slices of NIfTI volumes as grey images, through nibabel.

Slices are axial: the axis nearest to the patient's long one is cut, and a slice lies as radiologists look at
it, the patient's right at the left and the front at the top. A series of volumes counts slice by slice.
"""

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

from mediclip.data.dicom.faults import Fault, invalid, named, too_large
from mediclip.data.dicom.levels import Levels
from mediclip.data.dicom.limits import MAX_FRAME_VALUES, MAX_HEADER_BYTES
from mediclip.data.dicom.policy import shown_by_percentiles
from mediclip.data.dicom.quiet import hush
from mediclip.data.policies import Choices
from mediclip.data.source import opened
from mediclip.errors import ImageError, InvalidHeaderError, MaskError, SettingsError, TruncatedError

_GZIP: Final = b"\x1f\x8b"
MAX_VOLUME_BYTES: Final = 2**30


def read_grey(
    path: Path, *, name: str, frame: int | None = None, choices: Choices | None = None
) -> NDArray[np.float32]:
    """Read a slice as grey, from the 0.5th to the 99.5th percentile of its foreground.

    Args:
        path: The file.
        name: What messages call it.
        frame: Which slice from 0, from the feet up, of one volume after the other; the middle one of the
            first volume when omitted.
        choices: No matter here: a volume names no modality.

    Returns:
        ``(H, W)`` in [0, 1].

    Raises:
        ImageError: If the file cannot be used.
        SettingsError: If there is no such slice.
    """
    del choices
    with named(name), _volume(path, name) as volume:
        levels = Levels.of(volume.slice(frame, name))
        return levels.spread(shown_by_percentiles(levels))


def read_mask(path: Path, *, name: str, frame: int | None = None) -> NDArray[np.bool_]:
    """Read a slice of a mask: whatever is not 0.

    Args:
        path: The file.
        name: What messages call it.
        frame: As :func:`read_grey`.

    Returns:
        ``(H, W)``, True where abnormal.

    Raises:
        MaskError: If the file cannot be used.
    """
    try:
        with named(name), _volume(path, name) as volume:
            mask: NDArray[np.bool_] = np.not_equal(np.nan_to_num(volume.slice(frame, name)), 0)
            return mask
    except ImageError as error:
        raise MaskError(str(error)) from None


def read_shape(path: Path, *, name: str) -> tuple[int, int]:
    """Read height and width of a slice, from the header alone."""
    with named(name), _volume(path, name) as volume:
        return volume.shape[1], volume.shape[0]


def slice_count(path: Path, *, name: str) -> int:
    """Count the slices of all volumes of a file, from the header alone."""
    with named(name), _volume(path, name) as volume:
        return volume.shape[2] * volume.volumes


class _Volume:
    """An open file whose axes are known."""

    def __init__(self, image: Any) -> None:  # noqa: ANN401 - nibabel has no types
        from nibabel.orientations import io_orientation  # noqa: PLC0415 - takes a while

        self._data = image.dataobj
        shape = (*image.shape, 1, 1)[:3] if len(image.shape) < 3 else image.shape[:3]
        self.volumes: int = math.prod(image.shape[3:])
        if len(image.shape) < 2 or min(image.shape) < 1:
            raise invalid(keyword="dim", must="as two axes at least", found="it has fewer")
        if image.get_data_dtype().kind not in "iuf":
            raise invalid(keyword="datatype", must="as plain numbers", found="it holds others")
        stored = math.prod(image.shape) * image.get_data_dtype().itemsize
        if shape[0] * shape[1] > MAX_FRAME_VALUES or stored > MAX_VOLUME_BYTES:
            must = f"{MAX_VOLUME_BYTES >> 20} MiB"
            raise too_large(must, "its header says more")
        offset = int(image.dataobj.offset)
        if offset > MAX_HEADER_BYTES:
            raise _too_far()
        # Where its last voxel ends, in bytes.
        self.end = offset + stored
        axes = io_orientation(image.affine)  # type: ignore[no-untyped-call]
        if np.isnan(axes).any():
            raise invalid(keyword="affine", must="that tells the axes apart", found="it does not")
        # Which axis of the file runs to the right, to the front and up, and in which direction.
        self._order = [int(np.flatnonzero(axes[:, 0] == i)[0]) for i in range(3)]
        self._flips = [axes[axis, 1] < 0 for axis in self._order]
        self.shape: tuple[int, ...] = tuple(shape[axis] for axis in self._order)

    def slice(self, frame: int | None, name: str) -> NDArray[Any]:
        """Read one slice ``(H, W)``."""
        depth = self.shape[2]
        frame = depth // 2 if frame is None else frame
        if not 0 <= frame < depth * self.volumes:
            last = depth * self.volumes - 1
            message = f"The 'frame' of {name} must be in [0, {last}], but it is {frame}; choose another."
            raise SettingsError(message)
        volume, at = divmod(frame, depth)
        at = depth - 1 - at if self._flips[2] else at
        where: list[Any] = [slice(None)] * min(3, self._data.ndim)
        if self._order[2] < len(where):
            where[self._order[2]] = at
        where += np.unravel_index(volume, self._data.shape[3:], order="F") if self._data.ndim > 3 else ()
        plane = np.asarray(self._data[tuple(where)])
        if self._order[0] > self._order[1]:
            plane = plane.T
        plane = plane[:: -1 if self._flips[0] else 1, :: -1 if self._flips[1] else 1]
        # From (right, front) to rows that run to the back and columns that run to the patient's left.
        return np.ascontiguousarray(plane[::-1, ::-1].T)


class _Bounded:
    """A stream that is read, and so inflated, no further than a limit.

    A header of a few bytes can place the voxels behind gigabytes of zeros, or announce an extension of that
    size, and nibabel would read its way there.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.limit = MAX_HEADER_BYTES
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        self._check(self._stream.tell() + size if size >= 0 else self.limit + 1)
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._check(offset if whence == 0 else self.limit + 1)
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()

    def write(self, data: bytes) -> int:
        """Refuse: nibabel takes nothing for a file that has no such method."""
        raise NotImplementedError

    def _check(self, end: int) -> None:
        if end > self.limit:
            raise _too_far()


def _too_far() -> Fault:
    must = f"{MAX_HEADER_BYTES >> 20} MiB before its voxels"
    return too_large(must, "its header says more")


@contextmanager
def _volume(path: Path, name: str) -> Iterator[_Volume]:
    import nibabel  # noqa: PLC0415 - takes a while
    from nibabel.fileholders import FileHolder  # noqa: PLC0415
    from nibabel.spatialimages import HeaderDataError  # noqa: PLC0415

    hush()
    with opened(path, name=name) as stream:
        zipped = stream.read(2) == _GZIP
        stream.seek(0)
        source = _Bounded(cast("BinaryIO", gzip.GzipFile(fileobj=stream)) if zipped else stream)
        try:
            two = source.read(8)[4:7] == b"n+2"
            source.seek(0)
            kind: Any = nibabel.Nifti2Image if two else nibabel.Nifti1Image
            holder = FileHolder(fileobj=cast("Any", source))
            volume = _Volume(kind.from_file_map({"header": holder, "image": holder}, mmap=False))
            source.limit = volume.end
            yield volume
        except (EOFError, gzip.BadGzipFile):
            raise Fault(
                TruncatedError, "be complete", "it is truncated or damaged", "copy it again"
            ) from None
        except (HeaderDataError, ValueError, OSError, ArithmeticError, LookupError) as error:
            if isinstance(error, SettingsError | ImageError):
                raise
            raise Fault(InvalidHeaderError, "be undamaged", "it cannot be read") from None


def read_box(path: Path, *, name: str) -> None:
    """Slices are left whole."""
    del path, name
