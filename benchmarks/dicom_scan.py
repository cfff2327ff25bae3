"""The scan of a folder of DICOM headers, first without and then with its cache.

It writes 40 MB below the system's temporary folder and removes them again.
"""

import io
import itertools
import tempfile
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from benchmarks.harness import Benchmark, Outcome, compare
from mediclip.data.dicom_tree import scan_tree

PATIENTS = 500
IMAGES = 20
_PLACE = b"P@@@@@@"


def _header() -> bytes:
    """Make one image of about 100 elements, as a scanner writes them."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.PatientID, image.Modality = _PLACE.decode(), "MR"
    image.Rows = image.Columns = 16
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    for number in range(80):
        image.add_new((0x0019, 0x1000 + number), "DS", [str(number), "0.5"])
    image.PixelData = bytes(512)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, image, enforce_file_format=True)
    return stream.getvalue()


def _write_tree(tree: Path, patients: int) -> None:
    content = _header()
    for patient in range(patients):
        folder = tree / f"{patient:03d}"
        folder.mkdir(parents=True)
        written = content.replace(_PLACE, b"P%06d" % patient)
        for number in range(IMAGES):
            (folder / f"{number:02d}.dcm").write_bytes(written)


def _measure(*, quick: bool) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        tree, cache = Path(name) / "tree", Path(name) / "cache"
        _write_tree(tree, 2 if quick else PATIENTS)
        scan = scan_tree(tree, "scan", cache=cache)
        fresh = (Path(name) / f"cache-{number}" for number in itertools.count())
        timings = compare(
            {
                "first": lambda: scan_tree(tree, "scan", cache=next(fresh)),
                "again": lambda: scan_tree(tree, "scan", cache=cache),
            },
            repeats=3,
            warm_up=False,
        )
    times = {kind: timing.as_dict() for kind, timing in timings.items()}
    return Outcome(timings["first"].wall_s / timings["again"].wall_s, {"headers": len(scan.images), **times})


BENCHMARKS = (
    Benchmark(
        "dicom_scan",
        f"the first scan of {PATIENTS * IMAGES:,} DICOM headers against one with its cache",
        target=3,
        unit="times less wall time",
        measure=_measure,
        is_cheap=True,
    ),
)
