"""Read one header for a scan: what it keeps, or why the file is left out."""

from pathlib import Path
from typing import Final

from pydicom.filereader import read_file_meta_info

from mediclip.data.dicom.header import Header, read_header
from mediclip.data.dicom_tree.cache import Pseudonyms
from mediclip.data.dicom_tree.facts import NO_PIXELS, UNREADABLE, ImageFacts
from mediclip.errors import (
    EncryptedError,
    ImageError,
    InvalidHeaderError,
    NoPixelsError,
    NotDicomError,
    TooLargeError,
    TruncatedError,
)

# What is wrong with a file, in the words under which it is counted; any other error stands last.
_REASONS: Final[dict[type[ImageError], str]] = {
    NotDicomError: "not DICOM",
    TruncatedError: "truncated header",
    InvalidHeaderError: "invalid header",
    EncryptedError: "encrypted",
    TooLargeError: "too large",
    ImageError: UNREADABLE,
}
# SOP classes that hold pixels of another kind, or none, by the start of their UID (PS3.4 B.5).
_KINDS: Final = {
    "1.2.840.10008.1.3.10": "DICOMDIR",
    "1.2.840.10008.5.1.4.1.1.66": "segmentation or registration",
    "1.2.840.10008.5.1.4.1.1.88": "structured report",
    "1.2.840.10008.5.1.4.1.1.11": "presentation state",
    "1.2.840.10008.5.1.4.1.1.481": "radiotherapy object",
    "1.2.840.10008.5.1.4.1.1.104": "encapsulated document",
    "1.2.840.10008.5.1.4.1.1.9": "waveform",
}


def look(path: Path, relative: str, pseudonyms: Pseudonyms) -> str | tuple[ImageFacts, str]:
    """Read one file's header.

    Args:
        path: The file.
        relative: Its path below the tree; stands for the patient where the file names none.
        pseudonyms: Names under the machine's key.

    Returns:
        Facts and the name of the patient, or why the file is left out: a fixed word or two.
    """
    try:
        header = read_header(path, name="a file")
    except NoPixelsError:
        return _kind(_stored_class(path)) or NO_PIXELS
    except ImageError as error:
        return next(reason for kind, reason in _REASONS.items() if isinstance(error, kind))
    kind = _kind(header.sop_class)
    if kind is not None:
        return kind
    plain = {name: getattr(header, name) for name in ImageFacts.__annotations__}
    plain["study"] = pseudonyms.name("study", header.study) if header.study else ""
    facts = ImageFacts(**plain)
    return facts, _patient(header, relative, pseudonyms)


def _stored_class(path: Path) -> str:
    """Read the SOP class of a file that is known to be DICOM, from its meta information."""
    try:
        return str(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    except Exception:  # noqa: BLE001 - there need not be any
        return ""


def _kind(sop_class: str) -> str | None:
    return next((kind for uid, kind in _KINDS.items() if f"{sop_class}.".startswith(f"{uid}.")), None)


def _patient(header: Header, relative: str, pseudonyms: Pseudonyms) -> str:
    for kind, value in (("patient", header.patient_key), ("study", header.study)):
        if value:
            return pseudonyms.name(kind, value)
    return pseudonyms.name("file", relative)
