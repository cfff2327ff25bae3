"""What a scan keeps of one header."""

from dataclasses import dataclass
from typing import Final

NO_PIXELS: Final = "no pixels"
UNREADABLE: Final = "not readable"


@dataclass(frozen=True)
class ImageFacts:
    """What a scan keeps of a header: nothing that tells who a patient is; examinations by keyed hashes.

    Attributes:
        modality: Code of the modality, such as ``"MR"``.
        body_part: Body part examined, in capitals; empty if the file does not say in a code.
        view: View position; empty if the file does not say in a code.
        rows: Height in pixels, at least 1.
        columns: Width in pixels, at least 1.
        frames: Number of frames, at least 1.
        bits: Bits stored.
        photometric: Photometric interpretation.
        transfer_syntax: UID of the transfer syntax.
        manufacturer: Manufacturer of the scanner, in at most 64 characters.
        model: Its model, likewise.
        burned_in: Whether text is burned into the pixels; None if the file does not say.
        study: A keyed hash of the examination's UID; empty if the file gives none.
    """

    modality: str
    body_part: str
    view: str
    rows: int
    columns: int
    frames: int
    bits: int
    photometric: str
    transfer_syntax: str
    manufacturer: str
    model: str
    burned_in: bool | None
    study: str
