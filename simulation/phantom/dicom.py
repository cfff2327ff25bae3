"""The phantoms as a hospital would send them: DICOM files in folders of patients, with a table of labels.

Digital radiographs (DX) of the chest, MR images of the brain, ultrasound images of the breast, CT images of
the abdomen and photographs (OP) of the retina, with the grey levels of
:func:`simulation.phantom.write_phantom_set`, so that a reader can be held to giving back the same pictures.
No patient's name or number is a real one.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    OphthalmicPhotography8BitImageStorage,
    UltrasoundImageStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat

from mediclip.errors import SettingsError
from simulation.phantom.abdomen import WINDOW as CT_WINDOW
from simulation.phantom.dataset import PlannedPhantom, plan_phantom_set
from simulation.phantom.draw import Phantom
from simulation.phantom.scanner import Scanner

MANIFEST_NAME: Final = "manifest.csv"
_COLUMNS: Final = ("file", "label", "mask", "split")
_DATE: Final = "20200101"
_MAX_NAME: Final = 40


def write_phantom_dicom(
    directory: Path,
    organ: str,
    *,
    seed: int,
    train_normal: int = 24,
    test_normal: int = 30,
    test_abnormal: int = 30,
    size: int = 256,
    scanner: Scanner | None = None,
    images_per_patient: int = 1,
    patient_names: Sequence[str] | None = None,
) -> Path:
    """Write a set of phantoms as a tree of DICOM files.

    The images are those of :func:`simulation.phantom.write_phantom_set` with the same arguments. Each grey
    level g of its 256 is stored as 257 g in 16 bits (as g in the 8 bits of ultrasound and photograph) and
    shows as g / 255 under the window, which covers all that can be stored; in CT that is the soft-tissue
    window. Nothing is compressed. Masks are PNG files in a folder of their own, and ``manifest.csv`` names
    label, mask and split of each image.

    Args:
        directory: Folder to write into; it must be empty or not there yet.
        organ: One of :data:`simulation.phantom.ORGANS`.
        seed: The set's seed.
        train_normal: Number of training images, at least 0; none of them has a finding.
        test_normal: Number of test images without a finding, at least 0.
        test_abnormal: Number of test images with one, at least 0.
        size: Side of the images in pixels, in [64, 2048].
        scanner: The hospital's scanner; a middling one if not given.
        images_per_patient: How many images in a row belong to one patient, at least 1. Training images,
            healthy and ill test images have patients of their own.
        patient_names: What the patients are called in turn, each at most 40 characters, to look for in what
            a program puts out. They go into every attribute that tells who a patient is; "PHANTOM" if not
            given.

    Returns:
        The folder.

    Raises:
        ManifestError: The folder is not empty.
        SettingsError: Unknown organ, a number or a name out of its range.
    """
    if images_per_patient < 1:
        message = (
            f"'images_per_patient' of a phantom set must be at least 1. Got {images_per_patient!r} instead."
        )
        raise SettingsError(message)
    names = ["PHANTOM"] if patient_names is None else list(patient_names)
    if not names or not all(0 < len(name) <= _MAX_NAME and "\\" not in name for name in names):
        message = (
            f"The 'patient_names' of a phantom set must be at least one name of 1 to {_MAX_NAME} characters "
            f"without a backslash. Got {len(names)} names, not all of them so."
        )
        raise SettingsError(message)
    planned = plan_phantom_set(
        directory,
        organ,
        seed=seed,
        train_normal=train_normal,
        test_normal=test_normal,
        test_abnormal=test_abnormal,
        size=size,
        scanner=scanner,
    )
    directory.mkdir(parents=True, exist_ok=True)
    patients: dict[tuple[str, int], int] = {}
    with (directory / MANIFEST_NAME).open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(_COLUMNS)
        for number, one in enumerate(planned):
            whose = (one.stream, one.index // images_per_patient)
            patient = patients.setdefault(whose, len(patients))
            name = names[patient % len(names)]
            table.writerow(_write(directory, one, _Case(seed, number, patient, name)))
    return directory


@dataclass(frozen=True)
class _Case:
    """Whose image it is: numbers within the set, and what the patient is called."""

    seed: int
    number: int
    patient: int
    name: str

    def uid(self, *what: str | int) -> UID:
        """Make a UID that depends on the set's seed and on what it is for."""
        return generate_uid(entropy_srcs=["phantom", str(self.seed), *map(str, what)])


def _write(directory: Path, one: PlannedPhantom, case: _Case) -> tuple[str, str, str, str]:
    """Write image and mask and return the row of the table."""
    phantom = one.draw()
    file = f"patient-{case.patient:04d}/image-{case.number:05d}.dcm"
    (directory / file).parent.mkdir(exist_ok=True)
    _as_dicom(phantom, case).save_as(directory / file, enforce_file_format=True)
    mask = ""
    if phantom.finding is not None:
        mask = f"masks/image-{case.number:05d}.png"
        (directory / mask).parent.mkdir(exist_ok=True)
        Image.fromarray(phantom.mask.astype(np.uint8) * 255).save(directory / mask, compress_level=3)
    label = "normal" if phantom.finding is None else "abnormal"
    return file, label, mask, "train" if one.stream == "train" else "test"


def _as_dicom(phantom: Phantom, case: _Case) -> Dataset:
    """Put an image and what describes it into one dataset; its attributes are those of its SOP class."""
    kind = _KINDS[phantom.organ]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = kind.sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = case.uid("image", case.number)
    _add_case(dataset, kind, case)
    _add_pixels(dataset, np.rint(phantom.image * 255).astype(np.uint8), kind.bits)
    kind.add(dataset)
    return dataset


def _add_case(dataset: Dataset, kind: "_Kind", case: _Case) -> None:
    """Patient, study, series and equipment (PS3.3 C.7.1 to C.7.5)."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = f"{case.name}^{case.patient:04d}"
    dataset.PatientID = f"{case.name}-{case.patient:04d}"
    dataset.PatientBirthDate = "19500101"
    dataset.PatientSex = "O"
    dataset.StudyInstanceUID = case.uid("study", case.patient)
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = _DATE
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "120000"
    dataset.ReferringPhysicianName = f"{case.name}^Referrer"
    dataset.StudyID = str(case.patient)
    dataset.AccessionNumber = f"A{case.seed % 10**6}-{case.patient}"[:16]
    dataset.StudyDescription = f"{case.name} study"
    dataset.SeriesInstanceUID = case.uid("series", case.patient)
    dataset.Modality = kind.modality
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = case.number + 1
    dataset.BodyPartExamined = kind.body_part
    dataset.Manufacturer = "MediCLIP"
    dataset.ManufacturerModelName = "Phantom"
    dataset.DeviceSerialNumber = "0"
    dataset.SoftwareVersions = "1"
    dataset.BurnedInAnnotation = "NO"


def _add_pixels(dataset: Dataset, levels: NDArray[np.uint8], bits: int) -> None:
    """Pixels and a window under which the largest value shows as 1 (PS3.3 C.7.6.3, C.11.2.1.2.1).

    With centre 2^(bits-1) and width 2^bits the linear function is exactly y = x / (2^bits - 1).
    """
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = levels.shape
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    dataset.WindowCenter = 2 ** (bits - 1)
    dataset.WindowWidth = 2**bits
    dataset.PixelData = (levels if bits == 8 else levels.astype("<u2") * 257).tobytes()


def _add_radiograph(dataset: Dataset) -> None:
    """DX image for presentation (PS3.3 A.26)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.LossyImageCompression = "00"
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageLaterality = "U"
    dataset.ViewPosition = "PA"
    dataset.PositionerType = ""
    dataset.ImagerPixelSpacing = [0.5, 0.5]
    dataset.DetectorType = "DIRECT"
    dataset.AnatomicRegionSequence = Items([_code("816094009", "SCT", "Chest")])
    view = _code("272479007", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = Items()
    dataset.ViewCodeSequence = Items([view])
    dataset.AcquisitionContextSequence = Items()


def _add_magnetic_resonance(dataset: Dataset) -> None:
    """MR image (PS3.3 A.4)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
    dataset.MRAcquisitionType = "2D"
    dataset.RepetitionTime, dataset.EchoTime, dataset.EchoTrainLength = 500, 10, 1
    dataset.MagneticFieldStrength = 3
    _add_plane(dataset, spacing_mm=1)


def _add_plane(dataset: Dataset, *, spacing_mm: float) -> None:
    """Where an axial slice lies (PS3.3 C.7.4.1, C.7.6.2), with square pixels of a side in millimetres."""
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", dataset.StudyInstanceUID])
    dataset.PositionReferenceIndicator = ""
    dataset.PatientPosition = "HFS"
    dataset.ImagePositionPatient = [0, 0, 0]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [spacing_mm, spacing_mm]
    dataset.SliceThickness = 5


def _add_ultrasound(dataset: Dataset) -> None:
    """Ultrasound image (PS3.3 A.6), all of it one region of tissue (C.8.5.5)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "BREAST", "0001"]
    dataset.PatientOrientation = ""
    dataset.Laterality = "L"
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = dataset.Columns - 1, dataset.Rows - 1
    region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = 3, 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.02
    dataset.SequenceOfUltrasoundRegions = Items([region])


def _add_tomograph(dataset: Dataset) -> None:
    """CT image (PS3.3 A.3): what is stored becomes Hounsfield units, and the window is of those."""
    low, high = CT_WINDOW
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.RescaleIntercept, dataset.RescaleType = low, "HU"
    dataset.RescaleSlope = DSfloat((high - low) / (2**dataset.BitsStored - 1), auto_format=True)
    dataset.WindowCenter, dataset.WindowWidth = (low + high) / 2 + 0.5, high - low + 1
    dataset.KVP = 120
    dataset.AcquisitionNumber = 1
    _add_plane(dataset, spacing_mm=1.5)


def _add_fundus(dataset: Dataset) -> None:
    """Ophthalmic photograph (PS3.3 A.41)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageLaterality = "R"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.LossyImageCompression = "00"
    dataset.AcquisitionDateTime = f"{_DATE}120000"
    dataset.PupilDilated = "NO"
    dataset.HorizontalFieldOfView = 45
    dataset.PatientEyeMovementCommanded = "NO"
    dataset.IntraOcularPressure = dataset.EmmetropicMagnification = None
    dataset.AnatomicRegionSequence = Items([_code("5665001", "SCT", "Retina")])
    dataset.AcquisitionContextSequence = Items()


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    """One coded entry (PS3.3 8.8)."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


@dataclass(frozen=True)
class _Kind:
    """What the images of one organ are as DICOM.

    Attributes:
        sop_class: What they are stored as.
        modality: Code of the modality.
        body_part: Body part examined.
        bits: Bits stored and allocated.
        add: Adds the attributes of the SOP class.
    """

    sop_class: UID
    modality: str
    body_part: str
    bits: int
    add: Callable[[Dataset], None]


# Ultrasound in grey has 8 bits (PS3.3 C.8.5.6.1.2), and so has this photograph; the others have 16.
_KINDS: Final = {
    "chest": _Kind(DigitalXRayImageStorageForPresentation, "DX", "CHEST", 16, _add_radiograph),
    "brain": _Kind(MRImageStorage, "MR", "BRAIN", 16, _add_magnetic_resonance),
    "breast": _Kind(UltrasoundImageStorage, "US", "BREAST", 8, _add_ultrasound),
    "abdomen": _Kind(CTImageStorage, "CT", "ABDOMEN", 16, _add_tomograph),
    "retina": _Kind(OphthalmicPhotography8BitImageStorage, "OP", "EYE", 8, _add_fundus),
}
