"""Times the scan of a folder of 10,000 DICOM headers, first without and then with its cache.

Run it as ``python -m benchmarks.dicom_scan``; it writes 40 MB below the system's temporary folder and removes
them again.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

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


def main() -> None:
    """Write the folder, scan it twice and print both times."""
    content = _header()
    with tempfile.TemporaryDirectory() as name:
        tree, cache = Path(name) / "tree", Path(name) / "cache"
        for patient in range(PATIENTS):
            folder = tree / f"{patient:03d}"
            folder.mkdir(parents=True)
            written = content.replace(_PLACE, b"P%06d" % patient)
            for number in range(IMAGES):
                (folder / f"{number:02d}.dcm").write_bytes(written)
        for kind in ("first", "again"):
            begin, used = time.perf_counter(), time.process_time()
            scan = scan_tree(tree, "scan", cache=cache)
            wall, cpu = time.perf_counter() - begin, time.process_time() - used
            sys.stdout.write(f"{kind}: {len(scan.images):,} headers, {scan.n_read:,} read, ")
            sys.stdout.write(f"{wall:.2f} s ({cpu:.2f} s of one core)\n")


if __name__ == "__main__":
    main()
