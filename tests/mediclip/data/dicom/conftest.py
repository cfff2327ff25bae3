"""Small DICOM files whose every attribute a test can set, take away or get wrong."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CANARY = "Zebedee"
GREY = np.arange(12, dtype=np.uint16).reshape(3, 4)


def dataset(pixels: NDArray[Any] | None = None, **attributes: Any) -> Dataset:
    """Make a grey image; whoever it shows is called as the canary, in every attribute that can tell."""
    pixels = GREY if pixels is None else pixels
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = attributes.pop("syntax", ExplicitVRLittleEndian)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["x"])
    made.PatientName = made.PatientID = made.StudyDescription = made.AccessionNumber = CANARY
    made.Modality = "OT"
    made.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.Rows, made.Columns = pixels.shape[:2]
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    made["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    for keyword, value in attributes.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    if "BitsStored" in attributes and "HighBit" not in attributes:
        made.HighBit = made.BitsStored - 1
    return made


def item(**attributes: object) -> Sequence:
    """Make a sequence of one item."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return Sequence([made])


def as_bytes(made: Dataset) -> bytes:
    """Write a file, right or wrong."""
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write an image of given pixels and attributes; None takes an attribute away."""

    def make(pixels: NDArray[Any] | Dataset | bytes | None = None, **attributes: Any) -> Path:
        path = tmp_path / f"{CANARY}.dcm"
        if isinstance(pixels, Dataset):
            pixels = as_bytes(pixels)
        path.write_bytes(pixels if isinstance(pixels, bytes) else as_bytes(dataset(pixels, **attributes)))
        return path

    return make
