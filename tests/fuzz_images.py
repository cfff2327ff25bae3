"""Damage real images of every format and read them: ``python tests/fuzz_images.py [inputs] [seed]``.

Every input must give a picture or an ``ImageError`` of one sentence, within 5 seconds, and nothing that is
put out may hold the canary that stands in every file in place of a name, and in its path. A worker that dies
counts as a refusal for its user, but as a crash here.
"""

import contextlib
import gzip
import io
import os
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from PIL import Image, PngImagePlugin, TiffImagePlugin

from mediclip.data.dicom import read_header
from mediclip.data.pool import DecoderPool
from mediclip.errors import ImageError, MaskError

CANARY = b"ZebedeeQuux"
MAX_S = 5.0
DICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NIFTI = Path(nibabel.__file__).parent / "tests" / "data"
_DICOM_SEEDS = """
CT_small MR_small MR_small_RLE MR_small_bigendian MR_small_implicit MR_small_jp2klossless
MR_small_jpeg_ls_lossless JPGExtended JPEG-lossy JPEGLSNearLossless_08 SC_rgb_rle_16bit_2frame
SC_rgb_small_odd SC_rgb_small_odd_jpeg SC_rgb_jpeg_gdcm SC_rgb_jpeg_dcmtk SC_rgb_gdcm_KY SC_rgb_jls_lossy_line
SC_ybr_full_422_uncompressed rtdose_rle rtdose_expb image_dfl liver_1frame ExplVR_BigEnd JPEG2000 693_J2KI
test-SR no_meta UN_sequence badVR
"""
# Lengths and numbers that parsers and decoders stumble over.
_TROUBLE = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x8000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
Damage = Callable[[bytes, np.random.Generator], bytes]


def dicom_seeds() -> Iterator[bytes]:
    """Read DICOM files, each with the canary in place of who is in it."""
    for name in _DICOM_SEEDS.split():
        data = (DICOM / f"{name}.dcm").read_bytes()
        for tag in (b"\x10\x00\x10\x00PN", b"\x10\x00\x20\x00LO"):
            at = data.find(tag)
            if at >= 0:
                size = int.from_bytes(data[at + 6 : at + 8], "little")
                data = data[: at + 8] + (CANARY * 9)[:size] + data[at + 8 + size :]
        yield data


def _slice(mode: str) -> Image.Image:
    """Show a slice of a real CT as a picture of any of Pillow's modes."""
    pixels = pydicom.dcmread(DICOM / "CT_small.dcm").pixel_array.astype(np.float64)
    unit = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    if mode == "I;16":
        return Image.fromarray(np.uint16(65535 * unit))
    return Image.fromarray(np.uint8(255 * unit)).convert(mode)


def _saved(mode: str, format_name: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    _slice(mode).save(stream, format_name, **options)
    return stream.getvalue()


def png_seeds() -> Iterator[bytes]:
    """Make PNG files of every kind of pixel, with the canary in plain and compressed text."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", CANARY.decode())
    text.add_text("Comment", CANARY.decode() * 9, zip=True)
    text.add_itxt("Name", CANARY.decode(), zip=True)
    for mode in ("L", "LA", "RGB", "RGBA", "P", "1", "I;16"):
        yield _saved(mode, "PNG", pnginfo=text, icc_profile=CANARY * 20)
    yield _saved("L", "PNG", transparency=9)


def jpeg_seeds() -> Iterator[bytes]:
    """Make JPEG files: baseline, progressive, of one, three and four channels, turned by EXIF."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, CANARY.decode()
    for mode, options in (
        ("L", {}),
        ("RGB", {"progressive": True}),
        ("CMYK", {}),
        ("RGB", {"optimize": True}),
    ):
        yield _saved(mode, "JPEG", exif=exif, comment=CANARY, restart_marker_blocks=2, **options)


def tiff_seeds() -> Iterator[bytes]:
    """Make TIFF files of every coding that Pillow has, and one of tiles."""
    about = TiffImagePlugin.ImageFileDirectory_v2()
    about[270] = CANARY.decode()
    for coding in ("raw", "tiff_deflate", "tiff_lzw", "packbits", "jpeg", "group4"):
        for mode in ("1",) if coding == "group4" else ("L", "RGB", "I;16")[: 2 if coding == "jpeg" else 3]:
            yield _saved(mode, "TIFF", compression=coding, tiffinfo=about)
    yield tiled(64, 64)


def tiled(width: int, height: int, *, size: int = 100) -> bytes:
    """Write a TIFF of ``size`` x ``size`` pixels in deflated tiles (TIFF 6.0, section 15)."""
    tiles = -(-size // width) * -(-size // height)
    data = zlib.compress(bytes(range(256)) * (min(width * height, 2**24) // 256), 9)
    entries = [
        (256, 4, 1, size), (257, 4, 1, size), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 4, 1, width), (323, 4, 1, height), (324, 4, tiles, 0), (325, 4, tiles, 0),
    ]  # fmt: skip
    after = 8 + 2 + 12 * len(entries) + 4
    offsets = struct.pack(f"<{tiles}I", *[after + 8 * tiles] * tiles)
    counts = struct.pack(f"<{tiles}I", *[len(data)] * tiles)
    places = {324: after, 325: after + 4 * tiles} if tiles > 1 else {324: after + 8, 325: len(data)}
    body = b"".join(struct.pack("<HHII", *entry[:3], places.get(entry[0], entry[3])) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + offsets + counts + data


def nifti_seeds() -> Iterator[bytes]:
    """Read volumes that nibabel tests itself with, with the canary in their description."""
    for name in ("anatomical.nii", "example_nifti2.nii.gz", "functional.nii", "reoriented_anat_moved.nii"):
        data = (NIFTI / name).read_bytes()
        data = gzip.decompress(data) if name.endswith("gz") else data
        at = 240 if data[4:7] == b"n+2" else 148  # descrip
        yield data[:at] + CANARY + data[at + len(CANARY) :]


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a file in one to three places, often in its header: bits, lengths, cuts, parts twice."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        size = len(changed)
        if size < 2:
            break
        near = min(size, 4096) if rng.random() < 0.5 else size
        at = int(rng.integers(0, near))
        match int(rng.integers(0, 6)):
            case 0:
                changed[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                changed[at] = int(rng.integers(0, 256))
            case 2:
                width = int(rng.choice([1, 2, 4]))
                order = "little" if rng.random() < 0.8 else "big"
                value = int(rng.choice(_TROUBLE)) % 256**width
                changed[at : at + width] = value.to_bytes(width, order)
            case 3:
                del changed[at : at + int(rng.integers(1, 64))]
            case 4:
                part = changed[at : at + int(rng.integers(1, 256))]
                changed[at:at] = part
            case _:
                if rng.random() < 0.2:
                    del changed[int(rng.integers(0, size)) :]
                else:
                    changed[at : at + 16] = CANARY[:16]
    return bytes(changed)


def damaged_png(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage a PNG before its pixels are compressed, or after: then its checksums are mostly mended."""
    if rng.random() < 0.4:
        start, end = data.index(b"IDAT") - 4, data.rindex(b"IEND") - 4
        pixels = zlib.decompress(
            b"".join(data[at + 8 : at + 8 + size] for at, size in _chunks(data, start, end))
        )
        body = b"IDAT" + zlib.compress(damaged(pixels, rng), 1)
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        return data[:start] + chunk + data[end:]
    changed = bytearray(damaged(data, rng))
    if rng.random() < 0.8:
        for at, size in _chunks(changed, 8, len(changed)):
            right = zlib.crc32(changed[at + 4 : at + 8 + size])
            changed[at + 8 + size : at + 12 + size] = right.to_bytes(4, "big")
    return bytes(changed)


def _chunks(data: bytes | bytearray, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Go through chunks: where each begins and how many bytes it holds."""
    while start + 12 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        if start + 12 + size > end:
            return
        yield start, size
        start += 12 + size


def damaged_gzip(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage a volume before it is compressed, or after, or both."""
    where = int(rng.integers(0, 3))
    inside = damaged(data, rng) if where != 1 else data
    outside = gzip.compress(inside, 1)
    return damaged(outside, rng) if where != 0 else outside


_FORMATS: dict[str, tuple[str, Callable[[], Iterator[bytes]], Damage]] = {
    "DICOM": (".dcm", dicom_seeds, damaged),
    "PNG": (".png", png_seeds, damaged_png),
    "JPEG": (".jpg", jpeg_seeds, damaged),
    "TIFF": (".tif", tiff_seeds, damaged),
    "NIfTI": (".nii", nifti_seeds, damaged),
    "NIfTI, compressed": (".nii.gz", nifti_seeds, damaged_gzip),
}


def fuzz(inputs: int, seed: int, folder: Path, pool: DecoderPool) -> dict[str, Counter[str]]:
    """Read so many damaged files, of every format in turn.

    Args:
        inputs: How many.
        seed: Of the damage.
        folder: Where to put one at a time.
        pool: Processes to decode in.

    Returns:
        By format, how often each came out: ``"read"`` or the name of an error.

    Raises:
        AssertionError: If an input crashes, hangs, or gives a name away.
    """
    rng = np.random.default_rng(seed)
    start = {name: list(seeds()) for name, (_, seeds, _) in _FORMATS.items()}
    counts: dict[str, Counter[str]] = {name: Counter() for name in _FORMATS}
    for name, (suffix, _, _) in _FORMATS.items():  # a worker that starts, and imports, takes its own time
        path = folder / f"first{suffix}"
        path.write_bytes(start[name][0])
        with contextlib.suppress(ImageError):
            pool.read(path, name="image 0")
    for number in range(inputs):
        name = list(_FORMATS)[number % len(_FORMATS)]
        suffix, _, damage = _FORMATS[name]
        path = folder / f"{CANARY.decode()}{suffix}"
        path.write_bytes(damage(start[name][int(rng.integers(0, len(start[name])))], rng))
        begin = time.perf_counter()
        said = _read(path, number, pool, counts[name])
        assert CANARY.decode().lower() not in said.lower(), (number, said)
        assert time.perf_counter() - begin < MAX_S, (number, name)
        path.unlink()
    return counts


def _read(path: Path, number: int, pool: DecoderPool, counts: Counter[str]) -> str:
    """Read a file in every way there is; return all that was said about it."""
    asks: list[Callable[[], object]] = [
        partial(pool.read, path, name="image 0"),
        partial(pool.read_mask, path, name="image 0"),
        partial(pool.read_shape, path, name="image 0"),
    ]
    if path.suffix == ".dcm":  # parsed in this process, for the scan of a tree
        asks.append(partial(read_header, path, name="image 0"))
    said = ""
    for ask in asks:
        try:
            found = ask()
        except (ImageError, MaskError) as error:
            sentence = str(error)
            assert sentence.startswith("Cannot use image 0: it must "), (number, sentence)
            assert "crashed" not in sentence, number
            assert "took longer" not in sentence, number
            said += sentence
            if ask is asks[0]:
                counts[type(error).__name__] += 1
            continue
        said += repr(found).replace(f"patient_key={CANARY.decode()!r}", "")
        if ask is asks[0]:
            assert isinstance(found, np.ndarray), number
            assert found.dtype == np.uint8 or 0 <= found.min() <= found.max() <= 1, number
            counts["read"] += 1
    return said


def main() -> None:
    """Fuzz in a worker, and say what came out."""
    inputs, seed = (int(value) for value in (sys.argv[1:] + ["20000", "0"][len(sys.argv) - 1 :]))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts = fuzz(inputs, seed, Path(folder), DecoderPool(workers=1, time_limit_s=MAX_S))
    sys.stdout.write(f"{inputs} inputs, seed {seed}, {time.perf_counter() - begin:.0f} s{os.linesep}")
    for name, found in counts.items():
        parts = ", ".join(f"{kind} {count}" for kind, count in found.most_common())
        sys.stdout.write(f"{name}: {parts}{os.linesep}")


if __name__ == "__main__":
    main()
