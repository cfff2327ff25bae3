"""Every error that this project raises on purpose.

    MediClipError
    ├── SettingsError        a setting is unknown or out of its range
    ├── DataError            the images, masks or lists cannot be used
    │   ├── ManifestError    a folder or sample list has no usable layout
    │   ├── ImageError       a file is empty, truncated, too large or no image
    │   │   ├── NotDicomError         what should be a DICOM file is none
    │   │   ├── TruncatedError        a file ends inside its header or its pixels
    │   │   ├── NoPixelsError         a DICOM file without pixels, such as a report
    │   │   ├── InvalidHeaderError    an attribute is missing or has no usable value
    │   │   ├── TransferSyntaxError   pixels are coded in a way that is not read
    │   │   ├── DecoderMissingError   the package that decodes the pixels is not installed
    │   │   ├── DecodeError           the pixels cannot be decoded, or not in time
    │   │   ├── EncryptedError        a file is encrypted
    │   │   ├── TooLargeError         a header asks for more than the caps allow
    │   │   └── DegenerateImageError  an image is constant, all padding or not finite
    │   ├── MaskError        a mask is missing or does not fit its image
    │   └── SupportSetError  fewer normal images than shots
    ├── BackboneError        a backbone cannot be found, loaded or is not the expected one
    │   └── TapError         a tapped layer lies outside the image tower
    ├── PromptError          phrases and context do not fit the text tower
    ├── SchemaError          tensors differ from the list of what may leave a site
    │   └── BaseModelError   differences start from a model that is not held here
    ├── CheckpointError      a model or round file is damaged or belongs to something else
    ├── FederationError      the federation cannot go on
    │   ├── QuorumError      too few sites gave an update that counts
    │   ├── UpdateRefusedError  one site's update does not count, with its reason
    │   ├── PolicyError      a request lies outside what a site allows, with its reason
    │   └── ServiceError     a site's own service is away, or answered with a word
    └── VerificationError    a computed number is outside its tolerance

A message says what must hold, what was found and what to do. It never quotes a patient's identifier,
a pixel value or a path below a data folder: a sample is named by its index.
"""

from typing import ClassVar


class MediClipError(Exception):
    """Base of all errors of this project.

    Attributes:
        code: Short fixed word that may leave a site in place of the message.
        exit_code: What the command line exits with.
    """

    code: str = "failed"
    exit_code: ClassVar[int] = 1


class SettingsError(MediClipError, ValueError):
    """A setting is unknown, missing or outside its range."""

    code = "settings"
    exit_code = 2


class DataError(MediClipError, ValueError):
    """Images, masks or sample lists cannot be used."""

    code = "data"
    exit_code = 3


class ManifestError(DataError):
    """A data folder or sample list has no layout that can be read."""

    code = "manifest"


class ImageError(DataError):
    """A file is empty, truncated, too large or not an image."""

    code = "image"


class NotDicomError(ImageError):
    """What should be a DICOM file is none."""

    code = "not-dicom"


class TruncatedError(ImageError):
    """A file ends inside its header or its pixels."""

    code = "truncated"


class NoPixelsError(ImageError):
    """A DICOM file holds no pixels: a report, a plan, a directory."""

    code = "no-pixels"


class InvalidHeaderError(ImageError):
    """An attribute of a header is missing or has no usable value.

    Attributes:
        keyword: The attribute's keyword in DICOM PS3.6; empty if the header as a whole cannot be read.
    """

    code = "invalid-header"

    def __init__(self, message: str, *, keyword: str = "") -> None:
        super().__init__(message)
        self.keyword = keyword


class TransferSyntaxError(ImageError):
    """Pixels are coded in a transfer syntax that is not read."""

    code = "transfer-syntax"


class DecoderMissingError(ImageError):
    """The package that decodes these pixels is not installed."""

    code = "decoder-missing"


class DecodeError(ImageError):
    """Pixels cannot be decoded, or not within the time and memory that one image may take."""

    code = "decode-failed"


class EncryptedError(ImageError):
    """A file, or what its image needs, is encrypted."""

    code = "encrypted"


class TooLargeError(ImageError):
    """A header asks for more bytes, pixels or frames than the caps allow."""

    code = "too-large"


class DegenerateImageError(ImageError):
    """An image is constant, all padding or not finite."""

    code = "degenerate"


class MaskError(DataError):
    """A mask is missing or does not fit its image."""

    code = "mask"


class SupportSetError(DataError):
    """There are fewer normal images than shots."""

    code = "support-set"


class BackboneError(MediClipError, ValueError):
    """A backbone cannot be found or loaded, or is not the one that was expected."""

    code = "backbone"
    exit_code = 4


class TapError(BackboneError):
    """A tapped layer lies outside the image tower."""

    code = "taps"


class PromptError(MediClipError, ValueError):
    """Phrases and context vectors do not fit the text tower."""

    code = "prompts"
    exit_code = 2


class SchemaError(MediClipError, ValueError):
    """Tensors differ in name, shape or type from those that may leave a site."""

    code = "schema"
    exit_code = 5


class BaseModelError(SchemaError):
    """Differences start from a model that this side does not hold."""

    code = "base"


class CheckpointError(MediClipError, ValueError):
    """A model or round file is damaged or belongs to another model."""

    code = "checkpoint"
    exit_code = 6


class FederationError(MediClipError, RuntimeError):
    """The federation cannot go on."""

    code = "federation"
    exit_code = 7


class QuorumError(FederationError):
    """Too few sites gave an update that counts."""

    code = "quorum"


class UpdateRefusedError(FederationError):
    """One site's update does not count.

    Attributes:
        reason: Short fixed word for history and metrics, for example ``"not-finite"``.
    """

    code = "update-refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PolicyError(FederationError):
    """A request, or the answer to it, lies outside what a site allows.

    Attributes:
        reason: ``federation``, ``source``, ``rounds``, ``images``, ``norm``, ``budget``,
            ``steps``, ``model`` or ``descriptor``; the code is ``policy-<reason>``.
    """

    code = "policy"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = f"{type(self).code}-{reason}"


class ServiceError(FederationError):
    """A site's service is away, or answered with the code of an error that it keeps to itself."""

    code = "service"

    def __init__(self, message: str, *, code: str = "service") -> None:
        super().__init__(message)
        self.code = code


class VerificationError(MediClipError, AssertionError):
    """A computed number lies outside its stated tolerance."""

    code = "verification"
    exit_code = 8
