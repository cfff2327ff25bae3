"""What a DICOM file is, told by its header alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from mediclip.data.dicom.faults import Fault, invalid, named, too_large
from mediclip.data.dicom.fields import code, label, text, whole
from mediclip.data.dicom.limits import MAX_FRAME_BYTES, MAX_FRAME_VALUES, MAX_FRAMES
from mediclip.data.dicom.located import Parsed
from mediclip.data.dicom.parse import parsed

GREY: Final = ("MONOCHROME1", "MONOCHROME2")
PALETTE: Final = "PALETTE COLOR"
COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_FLOAT_BITS: Final = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}


@dataclass(frozen=True)
class Header:
    """What is read of a header. The ``repr`` names nobody: identifiers are left out of it.

    Attributes:
        modality: Code, such as ``"MR"``; empty if the file gives none.
        rows: Height of a frame in pixels, at least 1.
        columns: Width of a frame in pixels, at least 1.
        frames: Number of frames, at least 1.
        samples: Values per pixel, 1 or 3.
        photometric: Photometric interpretation, one of ``GREY``, ``PALETTE`` and ``COLOUR``.
        bits_allocated: Bits that a value takes: 1, 8, 16, 32 or 64.
        bits: Bits of it that are used, at most ``bits_allocated``.
        high_bit: The highest of them, from 0.
        signed: Whether values may be negative.
        floating: Whether values are floating point.
        transfer_syntax: UID of the transfer syntax.
        sop_class: UID of the SOP class; empty if the file gives none.
        body_part: Body part examined, in capitals; empty if the file does not say in a code.
        view: View position; empty if the file does not say in a code.
        manufacturer: Of the scanner, printable ASCII of at most 64 characters.
        model: Of the scanner, likewise.
        burned_in: Whether text is burned into the pixels; None if the file does not say.
        patient_key: The raw Patient ID, in memory only: to be hashed, never to be shown. Empty if missing.
        study: Study Instance UID, likewise.
        series: Series Instance UID, likewise.
        instance: SOP Instance UID, likewise.
    """

    modality: str
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits: int
    high_bit: int
    signed: bool
    floating: bool
    transfer_syntax: str
    sop_class: str
    body_part: str
    view: str
    manufacturer: str
    model: str
    burned_in: bool | None
    patient_key: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)


def read_header(path: Path, *, name: str) -> Header:
    """Read what a DICOM file is; of its pixels, nothing.

    Args:
        path: The file.
        name: What messages call it, such as ``"test image 12"``; never its path.

    Returns:
        The header, within the caps of :mod:`mediclip.data.dicom.limits`.

    Raises:
        NotDicomError: If it is no DICOM file.
        TruncatedError: If it ends inside its header.
        NoPixelsError: If it holds no pixels.
        InvalidHeaderError: If an attribute that the pixels need is missing or makes no sense.
        EncryptedError: If it is encrypted.
        TooLargeError: If it asks for more than the caps allow.
        ImageError: If the file cannot be opened.
    """
    with named(name), parsed(path, name=name) as file:
        return header_of(file)


def header_of(file: Parsed) -> Header:
    """Make a header from the attributes of an open file.

    Raises:
        Fault: If they do not describe pixels that can be read, or describe too many.
    """
    dataset = file.header
    rows, columns = (whole(dataset, keyword, 1, 2**16 - 1) for keyword in ("Rows", "Columns"))
    frames = whole(dataset, "NumberOfFrames", 0, 2**31 - 1, 1) or 1
    samples = whole(dataset, "SamplesPerPixel", 1, 3, 1)
    photometric = _photometric(dataset, samples)
    allocated, bits, high, signed = _bits(file)
    _check_size(rows, columns, samples, frames, allocated)
    burned_in = {"YES": True, "NO": False}.get(code(dataset, "BurnedInAnnotation"))
    return Header(
        modality=code(dataset, "Modality"),
        rows=rows,
        columns=columns,
        frames=frames,
        samples=samples,
        photometric=photometric,
        bits_allocated=allocated,
        bits=bits,
        high_bit=high,
        signed=signed,
        floating=file.keyword in _FLOAT_BITS,
        transfer_syntax=str(file.syntax),
        sop_class=text(dataset, "SOPClassUID"),
        body_part=code(dataset, "BodyPartExamined"),
        view=code(dataset, "ViewPosition"),
        manufacturer=label(dataset, "Manufacturer"),
        model=label(dataset, "ManufacturerModelName"),
        burned_in=burned_in,
        patient_key=text(dataset, "PatientID"),
        study=text(dataset, "StudyInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        instance=text(dataset, "SOPInstanceUID"),
    )


def _photometric(dataset: Dataset, samples: int) -> str:
    photometric = code(dataset, "PhotometricInterpretation")
    known = COLOUR if samples == 3 else (*GREY, PALETTE)
    if samples == 2 or photometric not in known:
        keyword = "SamplesPerPixel" if samples == 2 else "PhotometricInterpretation"
        must = "as 1 or 3" if samples == 2 else f"as {', '.join(known[:-1])} or {known[-1]}"
        found = "it holds something else" if samples == 2 or photometric else "it is missing"
        raise invalid(keyword, must, found)
    return photometric


def _bits(file: Parsed) -> tuple[int, int, int, bool]:
    """Read bits allocated and stored, the high bit, and whether values are signed."""
    if (floating := _FLOAT_BITS.get(file.keyword)) is not None:
        return floating, floating, floating - 1, True
    allocated = whole(file.header, "BitsAllocated", 1, 64)
    if allocated not in {1, 8, 16, 32, 64}:
        raise invalid(keyword="BitsAllocated", must="as 1, 8, 16, 32 or 64", found="it holds something else")
    bits = whole(file.header, "BitsStored", 1, allocated, allocated)
    high = whole(file.header, "HighBit", bits - 1, allocated - 1, bits - 1)
    signed = whole(file.header, "PixelRepresentation", 0, 1)
    return allocated, bits, high, bool(signed)


def _check_size(rows: int, columns: int, samples: int, frames: int, allocated: int) -> None:
    fault: Fault | None = None
    if (values := rows * columns * samples) > MAX_FRAME_VALUES:
        fault = too_large(
            f"{MAX_FRAME_VALUES / 1e6:.0f} million values in a frame", f"it has {values / 1e6:.0f} million"
        )
    elif values * allocated // 8 > MAX_FRAME_BYTES:
        fault = too_large(f"{MAX_FRAME_BYTES >> 20} MiB in a frame", f"it has {values * allocated >> 23}")
    elif frames > MAX_FRAMES:
        fault = too_large(f"{MAX_FRAMES} frames", "it has more")
    if fault is not None:
        raise fault
