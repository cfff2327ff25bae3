"""Decoding and preprocessing of DICOM beside ``pydicom.pixels.pixel_array`` and a resize, both on all cores.

The rival does less: it gives values no meaning, has no policy, and trusts its files. The details also say how
long it takes when it scales by the percentiles of the foreground, as the policy of MR does. Its processes are
started beforehand, as ours are.
"""

import functools
import io
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from benchmarks.harness import Benchmark, Outcome, compare
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.data.samples import Sample

SIDES: Final = (256, 512, 1024)
IMAGES: Final = 64
SYNTAXES: Final = {
    "raw": ExplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg": JPEGBaseline8Bit,
    "jpeg_ls": JPEGLSLossless,
    "jpeg_2000": JPEG2000Lossless,
}


def scan(side: int, bits: int) -> NDArray[Any]:
    """Draw a smooth body on a black ground, with the noise of a scanner.

    Args:
        side: Side S in pixels.
        bits: Bits of a value.

    Returns:
        ``(S, S)`` in [0, 2^bits).
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    body = np.exp(-3 * (x**2 + 1.4 * y**2)) * (1 + 0.2 * np.cos(9 * x) * np.cos(7 * y))
    inside = x**2 + 1.4 * y**2 < 0.8
    values = np.where(inside, 0.7 * body + rng.normal(0, 0.004, body.shape), 0)
    levels: NDArray[Any] = np.rint(values.clip(0, 1) * (2**bits - 1))
    return levels.astype(np.uint8 if bits == 8 else np.uint16)


def mr_file(syntax: UID, side: int) -> bytes:
    """Write an MR image of about 100 elements with 12 of 16 bits; as JPEG with 8."""
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    pixels = scan(side, bits)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.PatientID, image.Modality = "PHANTOM", "MR"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated, image.BitsStored, image.HighBit = 8 * pixels.itemsize, bits, bits - 1
    image.PixelRepresentation, image.SamplesPerPixel = 0, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    for number in range(80):
        image.add_new((0x0019, 0x1000 + number), "DS", [str(number), "0.5"])
    image.PixelData = pixels.tobytes()
    if syntax == JPEGBaseline8Bit:
        frame = io.BytesIO()
        Image.fromarray(pixels).save(frame, "JPEG", quality=90)
        image.file_meta.TransferSyntaxUID = syntax
        image.PixelData = encapsulate([frame.getvalue()])
        image["PixelData"].is_undefined_length = True
    elif syntax.is_encapsulated:
        image.compress(syntax)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, image, enforce_file_format=True)
    return stream.getvalue()


def plainly(path: str) -> NDArray[np.float32]:
    """Decode with pydicom and resize with Pillow: what a script would do."""
    return _resized(_decoded(path).astype(np.float32))


def scaled(path: str) -> NDArray[np.float32]:
    """Do that, and go from percentile to percentile of the foreground: what a longer script would do."""
    values = _decoded(path).astype(np.float32)
    low, high = np.percentile(values[values > values.min()], (0.5, 99.5))
    return _resized(np.clip((values - low) / (high - low), 0, 1, dtype=np.float32))


def _decoded(path: str) -> NDArray[Any]:
    try:
        return pixel_array(path)
    except AttributeError:  # of a path, it reads no deflated file
        return pixel_array(pydicom.dcmread(path))


def _resized(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(values).resize((224, 224), Image.Resampling.BILINEAR))


def _measure_side(paths: Sequence[Path], pool: ProcessPoolExecutor, repeats: int) -> dict[str, float]:
    samples = [Sample(i, path, 0, "normal", "benchmark") for i, path in enumerate(paths)]
    words = [str(path) for path in paths]
    timings = compare(
        {
            "ours": lambda: load_images(samples, Preprocess()),
            "pydicom": lambda: list(pool.map(plainly, words, chunksize=4)),
            "pydicom_scaled": lambda: list(pool.map(scaled, words, chunksize=4)),
        },
        repeats=repeats,
    )
    each = {f"{name}_ms": round(1000 * timing.wall_s / len(paths), 2) for name, timing in timings.items()}
    return {"ratio": round(timings["ours"].wall_s / timings["pydicom"].wall_s, 3), **each}


def _measure(syntax: UID, *, quick: bool) -> Outcome:
    found = {}
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(os.cpu_count()) as pool:
        for side in SIDES[:1] if quick else SIDES:
            content = mr_file(syntax, side)
            paths = [Path(name) / f"{number}.dcm" for number in range(4 if quick else IMAGES)]
            for path in paths:
                path.write_bytes(content)
            found[f"side {side}"] = _measure_side(paths, pool, 1 if quick else 7)
    return Outcome(max(one["ratio"] for one in found.values()), dict(found))


BENCHMARKS = tuple(
    Benchmark(
        f"dicom_{title}",
        f"decoding {title} DICOM against pydicom and a resize on all cores, the worst of {len(SIDES)} sizes",
        target=1,
        unit="of the rival's wall time",
        measure=functools.partial(_measure, syntax),
        at_most=True,
    )
    for title, syntax in SYNTAXES.items()
)
