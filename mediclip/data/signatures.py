"""How DICOM and NIfTI files are known, without importing what reads them."""

from typing import Final

DICOM_SUFFIXES: Final = (".dcm", ".dicom")
NIFTI_SUFFIXES: Final = (".nii", ".nii.gz")
_BARE_SUFFIXES: Final = (*DICOM_SUFFIXES, "")
# How a dataset without the preamble of PS3.10 7.1 begins: an element of group 2 or 8, in either byte order.
_BARE: Final = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
_GZIP: Final = b"\x1f\x8b"
# NIfTI-1 and NIfTI-2 in one file: the magic at byte 344 and at byte 4.
_MAGIC: Final = ((344, b"n+1\0"), (4, b"n+2\0"))


def is_dicom(head: bytes, suffix: str) -> bool:
    """Tell by its first bytes whether a file calls itself DICOM.

    Args:
        head: At least the first 132 bytes.
        suffix: Its extension in lower case: without a signature, it decides together with the first element.

    Returns:
        True for the signature, for what ``.dcm`` and ``.dicom`` say is DICOM, and for a bare dataset without
        an extension.
    """
    if head[128:132] == b"DICM" or (suffix in DICOM_SUFFIXES):
        return True
    return suffix in _BARE_SUFFIXES and head.startswith(_BARE)


def is_nifti(head: bytes, suffix: str) -> bool:
    """Tell by its first bytes whether a file calls itself NIfTI.

    Args:
        head: At least the first 348 bytes.
        suffix: Its extension in lower case, ``.nii.gz`` for compressed ones.

    Returns:
        True for a NIfTI file, and for a compressed file that is called one.
    """
    if head.startswith(_GZIP):
        return suffix == ".nii.gz"
    return any(head[at : at + 4] == magic for at, magic in _MAGIC)
