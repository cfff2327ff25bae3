"""Decode one frame to the values that the file stores.

Native pixels are cut out of the file and unpacked here; compressed ones go to the decoders that pydicom
knows, after :mod:`mediclip.data.dicom.codestream` has held their size against the header's.
"""

from math import ceil
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID, RLELossless

from mediclip.data.dicom.codestream import checked
from mediclip.data.dicom.faults import Fault, invalid, too_large
from mediclip.data.dicom.fields import whole
from mediclip.data.dicom.fragments import encapsulated_frame
from mediclip.data.dicom.header import Header
from mediclip.data.dicom.limits import MAX_INFLATED_BYTES, MAX_UNPROVEN_VALUES, MAX_VALUES_PER_BYTE
from mediclip.data.dicom.located import UNDEFINED, Parsed
from mediclip.data.dicom.quiet import hush_gdcm
from mediclip.data.dicom.rle import decode_rle
from mediclip.errors import DecodeError, DecoderMissingError, TransferSyntaxError, TruncatedError

_NATIVE: Final = frozenset(f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".1.99", ".2"))
# One decoder for each transfer syntax, by pydicom's name for it and its package: lossy ones differ in the
# last bit, and an image must not depend on what else a site has installed.
_PILLOW: Final = ("pillow", "pillow")
_GDCM: Final = ("gdcm", "python-gdcm")
_CHARLS: Final = ("pyjpegls", "pyjpegls")
_OPENJPEG: Final = ("pylibjpeg", "pylibjpeg-openjpeg")
_DECODERS: Final = {
    "1.2.840.10008.1.2.4.50": _PILLOW,
    "1.2.840.10008.1.2.4.51": _PILLOW,
    "1.2.840.10008.1.2.4.57": _GDCM,
    "1.2.840.10008.1.2.4.70": _GDCM,
    "1.2.840.10008.1.2.4.80": _CHARLS,
    "1.2.840.10008.1.2.4.81": _CHARLS,
    "1.2.840.10008.1.2.4.90": _OPENJPEG,
    "1.2.840.10008.1.2.4.91": _OPENJPEG,
    "1.2.840.10008.1.2.4.201": _OPENJPEG,
    "1.2.840.10008.1.2.4.202": _OPENJPEG,
    "1.2.840.10008.1.2.4.203": _OPENJPEG,
}
# Its licence (GPL-3.0) keeps it from being a dependency; the other decoders get 12 bits wrong.
_TWELVE_BITS: Final = ("pylibjpeg", "pylibjpeg-libjpeg")


def stored_values(file: Parsed, header: Header, frame: int) -> tuple[NDArray[Any], str]:
    """Decode one frame.

    Args:
        file: An open file.
        header: Its header.
        frame: Which frame, from 0, below ``header.frames``.

    Returns:
        ``(H, W)``, or ``(H, W, 3)`` for colour, of integers (bool as 0 and 1) or of floating point, in the
        machine's byte order; and the photometric interpretation that they have now.

    Raises:
        Fault: If they cannot be decoded; see :func:`mediclip.data.dicom.read_dicom`.
    """
    _check_syntax(file, header)
    if header.transfer_syntax in _NATIVE:
        return _native(file, header, frame)
    data = encapsulated_frame(file.stream, file.start, file.header, frame=frame, frames=header.frames)
    count = header.rows * header.columns * header.samples
    if count > max(MAX_UNPROVEN_VALUES, MAX_VALUES_PER_BYTE * len(data)):
        must = f"{MAX_VALUES_PER_BYTE} values in a compressed byte of a frame that is so large"
        raise too_large(must, "it has more")
    if header.transfer_syntax == RLELossless:
        if header.bits_allocated == 1:
            raise invalid(keyword="BitsAllocated", must="as 8, 16, 32 or 64", found="it holds something else")
        size = header.rows, header.columns, header.samples
        values = decode_rle(data, *size, header.bits_allocated // 8)
        return _used_bits(values, header), header.photometric
    return _decompressed(data, header)


def _check_syntax(file: Parsed, header: Header) -> None:
    uid = header.transfer_syntax
    native = uid in _NATIVE
    if not native and uid != RLELossless and uid not in _DECODERS:
        name = known if (known := UID(uid).name) != uid else "a private one"
        must = "be coded in a transfer syntax that is read"
        do = "convert it, for example with dcmtk"
        raise Fault(TransferSyntaxError, must, f"it has {name}", do)
    if native == (file.length == UNDEFINED) or (header.floating and not native):
        found = "its pixels are coded in another one"
        raise invalid(keyword="TransferSyntaxUID", must="that fits its pixels", found=found)


def _native(file: Parsed, header: Header, frame: int) -> tuple[NDArray[Any], str]:
    """Cut a frame out of uncompressed pixels (PS3.5 8.1, A.1 to A.3, A.5)."""
    count = header.rows * header.columns * header.samples
    subsampled = header.photometric == "YBR_FULL_422"
    if subsampled:
        if header.columns % 2 or header.bits_allocated != 8:
            raise invalid(keyword="Columns", must="as an even number of 8 bits", found="it is none")
        count = count // 3 * 2
    bits = count * header.bits_allocated
    total = ceil(bits * header.frames / 8)
    end = file.start + file.length
    if file.zipped_at is not None and end > MAX_INFLATED_BYTES:
        must = f"{MAX_INFLATED_BYTES >> 20} MiB when inflated"
        raise too_large(must, "it would have more")
    if file.length < total or end > file.size:
        raise Fault(TruncatedError, "hold all of its pixels", "it ends before", "copy it again")
    if header.bits_allocated == 1:
        values: NDArray[Any] = _single_bits(file, frame * bits, bits)
    else:
        values = _whole_bytes(file, header, frame * bits // 8, bits // 8)
    if subsampled:
        return _upsampled(values, header), "YBR_FULL"
    if header.samples == 1:
        return _used_bits(values.reshape(header.rows, header.columns), header), header.photometric
    if whole(file.header, "PlanarConfiguration", 0, 1, 0) == 1:
        values = values.reshape(3, header.rows, header.columns).transpose(1, 2, 0)
    return values.reshape(header.rows, header.columns, 3), header.photometric


def _single_bits(file: Parsed, first: int, count: int) -> NDArray[np.uint8]:
    """Read single bits, the lowest of a byte first (PS3.5 8.1.1); frames need not begin at a byte."""
    begin, end = first // 8, ceil((first + count) / 8)
    data = np.frombuffer(_even(file, begin, end - begin), dtype=np.uint8)
    return np.unpackbits(data, bitorder="little")[first % 8 : first % 8 + count]


def _whole_bytes(file: Parsed, header: Header, offset: int, size: int) -> NDArray[Any]:
    if header.bits_allocated == 8:
        return np.frombuffer(_even(file, offset, size), dtype=np.uint8)
    kind = "f" if header.floating else "u"
    order = "<" if file.little_endian else ">"
    dtype = np.dtype(f"{order}{kind}{header.bits_allocated // 8}")
    return np.frombuffer(file.read(offset, size), dtype=dtype).astype(dtype.newbyteorder("="), copy=False)


def _even(file: Parsed, offset: int, size: int) -> bytes:
    """Read bytes that lie swapped where words of 16 bits do (OW in big endian, PS3.5 A.3)."""
    if file.little_endian or file.vr != "OW":
        return file.read(offset, size)
    begin = offset - offset % 2
    until = min(offset + size + (offset + size) % 2, file.length)
    data = file.read(begin, until - begin)
    words = np.frombuffer(data[: len(data) // 2 * 2], dtype=">u2").astype("<u2").tobytes()
    return words[offset - begin : offset - begin + size]


def _upsampled(values: NDArray[Any], header: Header) -> NDArray[Any]:
    """Give each pixel of Y1 Y2 Cb Cr its own chroma (PS3.3 C.7.6.3.1.2)."""
    pairs = values.reshape(header.rows, header.columns // 2, 4)
    out = np.empty((header.rows, header.columns, 3), dtype=np.uint8)
    out[..., 0] = pairs[..., :2].reshape(header.rows, header.columns)
    out[..., 1:] = np.repeat(pairs[..., 2:], 2, axis=1)
    return out


def _used_bits(values: NDArray[Any], header: Header) -> NDArray[Any]:
    """Take the bits between high bit and low bit (PS3.5 8.1.1) with their sign; the rest may be overlays."""
    if header.floating or header.samples > 1:
        return values
    allocated, spare = header.bits_allocated, header.bits_allocated - header.bits
    if allocated == 1:
        return values
    if header.signed:
        signed = values.view(f"i{allocated // 8}")
        up = allocated - 1 - header.high_bit
        return (signed << up) >> spare if spare else signed
    if not spare:
        return values
    low = header.high_bit + 1 - header.bits
    if low:
        values = values >> low
    used: NDArray[Any] = values & np.asarray((1 << header.bits) - 1, dtype=values.dtype)
    return used


def _decompressed(data: bytes, header: Header) -> tuple[NDArray[Any], str]:
    """Decode JPEG, JPEG-LS or JPEG 2000."""
    from pydicom.encaps import encapsulate  # noqa: PLC0415 - brings the decoders, which take a while
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415

    data, bits = checked(data, header.rows, header.columns, header.samples)
    decoder = get_decoder(UID(header.transfer_syntax))
    plugin, package = _DECODERS[header.transfer_syntax]
    if plugin == "pillow" and bits > 8:
        plugin, package = _TWELVE_BITS
    if plugin not in decoder.available_plugins:
        found = f"package {package} is not installed"
        raise Fault(DecoderMissingError, "be coded in a way that is decoded here", found, "install it")
    if plugin == "gdcm":
        hush_gdcm()
    options = {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": 1,
        "samples_per_pixel": header.samples,
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits,
        "photometric_interpretation": header.photometric,
        "pixel_representation": int(header.signed),
        "planar_configuration": 0,
        "pixel_keyword": "PixelData",
    }
    try:
        values, now = decoder.as_array(
            encapsulate([data]), index=0, decoding_plugin=plugin, **cast("Any", options)
        )
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - a decoder meets damage in any way, and its text may quote the file
        raise Fault(DecodeError, "be undamaged", "its pixels cannot be decoded", "copy it again") from None
    size = (header.rows, header.columns) if header.samples == 1 else (header.rows, header.columns, 3)
    if values.shape != size:
        raise Fault(DecodeError, "be undamaged", "its pixels come out in another size", "copy it again")
    return values, str(now["photometric_interpretation"])
