"""PNG, JPEG and TIFF files as grey images and masks, at their own size.

Order of operations: caps on bytes (:mod:`mediclip.data.source`), pixels and tiles (from the header),
decoding, EXIF orientation, transparent parts to black, grey or mask. Only Pillow's decoders for these three
are reached, whatever the file calls itself, and none of Pillow's global settings is touched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mediclip.data.source import opened, unusable
from mediclip.errors import (
    DataError,
    DecodeError,
    ImageError,
    InvalidHeaderError,
    MaskError,
    MediClipError,
    TooLargeError,
)

Grey: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Below Pillow's own limit of 89 million, whose warning therefore never comes up.
MAX_PIXELS: Final = 2**26
# Of one tile of a TIFF, which is decoded as a whole however small the picture is.
MAX_TILE_PIXELS: Final = 2**20
_DECODERS: Final[dict[bytes, type[ImageFile]]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
}
_DEEP: Final = ("I;16", "I;16B")
_BITS: Final = 258
_PHOTOMETRIC: Final = 262
_ORIENTATION: Final = 0x0112
_TILE_SIZE: Final = (322, 323)
_AGAIN: Final = "copy it again or take it out of the set"


def is_raster(head: bytes) -> bool:
    """Tell by its first bytes whether a file calls itself PNG, JPEG or TIFF.

    Args:
        head: At least the first 8 bytes.

    Returns:
        True for the signature of one of them.
    """
    return any(head.startswith(signature) for signature in _DECODERS)


def read_grey(path: Path, *, name: str) -> Grey:
    """Read an image as grey.

    Colour becomes luma (ITU-R BT.601, in 8 bits, as Pillow does and the published code), CMYK and palettes by
    way of RGB. 16-bit grey is scaled by its full range (TIFF of 12 bits by its own); 16-bit colour keeps the
    upper 8 bits of each channel.

    Args:
        path: The file.
        name: What messages call it, such as ``"test image 12"``.

    Returns:
        ``(H, W)``, upright: uint8 in [0, 255], or for grey of 12 or 16 bits float32 in [0, 1].

    Raises:
        ImageError: If the file is missing, empty, too large, truncated, animated, or neither PNG, JPEG
            nor TIFF of 8 to 16 bits.
    """
    with _header(path, name=name, error=ImageError) as image:
        upright = _decoded(image)
        if upright.mode in _DEEP:
            top, inverted = _scale(image)
            grey: NDArray[np.float32] = np.minimum(
                _deep(upright).astype(np.float32) / np.float32(top), np.float32(1)
            )
            return np.float32(1) - grey if inverted else grey
        return np.asarray(_flat(upright).convert("L"))


def read_mask(path: Path, *, name: str) -> NDArray[np.bool_]:
    """Read a mask.

    Args:
        path: The file.
        name: What messages call it, such as ``"the mask of test image 12"``.

    Returns:
        ``(H, W)``, upright: True wherever any channel is not 0 (after palettes; transparent is 0). A JPEG
        mask is cut at half its range instead: its compression leaves specks around every edge.

    Raises:
        MaskError: If the file cannot be used, for the reasons of :func:`read_grey`, or has 16-bit colour,
            whose small values would be lost.
    """
    with _header(path, name=name, error=MaskError) as image:
        if image.tile and ";16" in str(image.tile[0].args) and image.mode not in _DEEP:
            do = "save it as a grey PNG"
            raise unusable(name, "be grey or 8-bit colour", "it is 16-bit colour", do, error=MaskError)
        upright = _decoded(image)
        if upright.mode in _DEEP:
            return np.not_equal(_deep(upright), 0)
        pixels = np.atleast_3d(np.asarray(_flat(upright)))
        floor = 127 if image.format == "JPEG" else 0
        mask: NDArray[np.bool_] = np.any(pixels > floor, axis=2)
        return mask


def read_shape(path: Path, *, name: str) -> tuple[int, int]:
    """Read the size of an image, from the header alone where the format allows.

    Args:
        path: The file.
        name: What messages call it.

    Returns:
        Height and width in pixels, upright.

    Raises:
        ImageError: If the file cannot be used.
    """
    with _header(path, name=name, error=ImageError) as image:
        turned = image.getexif().get(_ORIENTATION, 1) in {5, 6, 7, 8}
        return (image.width, image.height) if turned else (image.height, image.width)


@contextmanager
def _header(path: Path, *, name: str, error: type[DataError]) -> Iterator[ImageFile]:
    """Open a file and check what its header says; nothing is decoded but what the caller asks for."""
    with opened(path, name=name, error=error) as stream:
        head = stream.read(8)
        stream.seek(0)
        decoder = next((cls for signature, cls in _DECODERS.items() if head.startswith(signature)), None)
        if decoder is None:
            must = "be a PNG, JPEG, TIFF, DICOM or NIfTI image"
            do = "convert it or take it out of the set"
            raise unusable(name, must, "its content is none of these", do, error=error)
        try:
            image = decoder(stream)
        except Exception:  # noqa: BLE001 - Pillow meets damage in any way, and its text may quote the path
            found = "its header is damaged, or is that of a JPEG with more than 8 bits"
            do = "copy it again, or export it as PNG"
            must = "be a whole PNG or TIFF, or an 8-bit JPEG"
            raise unusable(name, must, found, do, error=error, kind=InvalidHeaderError) from None
        with _sound(name, error):
            _check_size(image, name=name, error=error)
            _check_kind(image, name=name, error=error)
            yield image


@contextmanager
def _sound(name: str, error: type[DataError]) -> Iterator[None]:
    """Make one error of whatever Pillow meets in a file; its text may quote the path."""
    try:
        yield
    except MediClipError:
        raise
    except MemoryError:
        must, do = "have at most what the memory holds", "export it smaller or take it out of the set"
        raise unusable(name, must, "it needs more", do, error=error, kind=TooLargeError) from None
    except Exception:  # noqa: BLE001 - in any way
        found = "it is truncated or damaged"
        raise unusable(name, "be complete", found, _AGAIN, error=error, kind=DecodeError) from None


def _check_size(image: ImageFile, *, name: str, error: type[DataError]) -> None:
    """Refuse what asks for more than the caps, before anything is decoded."""
    pixels = image.width * image.height
    limit = min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
    do = "export it smaller or take it out of the set"
    if pixels > limit:
        found = f"its header says {image.width} x {image.height}"
        must = f"have at most {limit / 1e6:.0f} million pixels"
        raise unusable(name, must, found, do, error=error, kind=TooLargeError)
    if isinstance(image, TiffImageFile):
        width, height = (int(image.tag_v2.get(tag, 0)) for tag in _TILE_SIZE)
        if width * height > max(MAX_TILE_PIXELS, 2 * pixels):
            must, found = "have tiles no larger than itself", f"its header says {width} x {height}"
            raise unusable(name, must, found, do, error=error, kind=TooLargeError)


def _check_kind(image: ImageFile, *, name: str, error: type[DataError]) -> None:
    """Refuse what holds more than one picture, or values that grey cannot be made of."""
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        do = "export one of them"
        raise unusable(name, "be a single picture", f"it has {frames} frames", do, error=error)
    if image.mode in {"I", "F"}:
        must, do = "have unsigned values of at most 16 bits", "export it as a 16-bit PNG"
        raise unusable(name, must, "it has others", do, error=error)


def _decoded(image: ImageFile) -> Image.Image:
    """Decode and turn upright."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _scale(image: ImageFile) -> tuple[int, bool]:
    """Tell which value of deep grey is the largest possible, and whether it is black."""
    if not isinstance(image, TiffImageFile):
        return 65535, False
    bits = image.tag_v2.get(_BITS, (16,))[0]
    return 2**bits - 1, image.tag_v2.get(_PHOTOMETRIC) == 0


def _deep(image: Image.Image) -> NDArray[np.uint16]:
    """Return 16-bit grey levels, those of the transparent level (if there is one) as 0."""
    levels: NDArray[np.uint16] = np.array(image, dtype=np.uint16)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels[levels == transparent] = 0
    return levels


def _flat(image: Image.Image) -> Image.Image:
    """Return an 8-bit grey or RGB image; whatever is transparent lies on black."""
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    return image.convert("L" if image.mode in {"1", "L"} else "RGB")
