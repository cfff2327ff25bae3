"""Trees of real DICOM files, made small."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset as DicomDataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MRImageStorage,
)

Write = Callable[..., Path]


def dicom_bytes(
    *,
    syntax: str = ExplicitVRLittleEndian,
    sop_class: str = MRImageStorage,
    pixels: bool = True,
    **values: object,
) -> bytes:
    """Write a file of 4 x 6 pixels by pydicom; values that are None are left out."""
    dataset = DicomDataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    defaults = {
        "PatientID": "P1",
        "PatientName": "Canary^Name",
        "Modality": "MR",
        "StudyInstanceUID": "1.2.3",
    }
    if pixels:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = 4, 6
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.PixelData = bytes(48)
        dataset["PixelData"].VR = "OW"
    for keyword, value in {**defaults, **values}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what tests remember out of the user's own cache."""
    monkeypatch.setenv("MEDICLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write_file(tmp_path: Path) -> Write:
    """Write one file into the tree; bytes, or an image with the given values."""

    def make(file: str, content: bytes | None = None, **values: object) -> Path:
        path = tmp_path / "tree" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom_bytes(**values) if content is None else content)
        return tmp_path / "tree"

    return make
