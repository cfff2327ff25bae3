"""Small PNG, TIFF and NIfTI files that ask for much are refused at little cost, in a measured process."""

import gzip
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.fuzz_images import tiled

MAX_S = 1.0
MAX_MIB = 200
# Seconds are the process's own, so that a busy machine does not decide; the memory is that of the whole
# process, Python, NumPy, Pillow and nibabel included.
MEASURE = """
import sys, time
from pathlib import Path
from mediclip.data.formats import read_image
from mediclip.errors import DataError
import nibabel, PIL.TiffImagePlugin
begin = time.process_time()
try:
    read_image(Path(sys.argv[1]), name="image 0")
    print("read", end=" ")
except DataError as error:
    print(type(error).__name__, end=" ")
print(time.process_time() - begin, end=" ")
# Not getrusage, which counts what the parent had when it forked.
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024)
"""


def deflated_zeros(size: int, head: bytes = b"") -> bytes:
    deflater = zlib.compressobj(6)
    parts = [deflater.compress(head), *(deflater.compress(bytes(2**20)) for _ in range(size >> 20))]
    return b"".join([*parts, deflater.flush()])


def gzipped_zeros(size: int, head: bytes) -> bytes:
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=6) as zipped:
        zipped.write(head)
        for _ in range(size >> 20):
            zipped.write(bytes(2**20))
    return stream.getvalue()


def png_with(kind: bytes, body: bytes) -> bytes:
    """Put one more chunk before the pixels of a small PNG, or put other pixels in their place."""
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stream, "PNG")
    data = stream.getvalue()
    at, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:at] + chunk + (data[end:] if kind == b"IDAT" else data[at:])


def nifti_head(*, offset: float = 352, shape: tuple[int, ...] = (4, 4, 4), extension: int = 0) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = offset, b"n+1"
    start = header.binaryblock[:348]
    return start + (struct.pack("<4Bii", 1, 0, 0, 0, extension, 4) if extension else bytes(4))


BOMBS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "png text": ("png", "InvalidHeaderError", lambda: png_with(b"zTXt", b"a\0\0" + deflated_zeros(2**28))),
    "png profile": ("png", "InvalidHeaderError", lambda: png_with(b"iCCP", b"a\0\0" + deflated_zeros(2**28))),
    # More pixels than the header has are not inflated.
    "png pixels": (
        "png",
        "read",
        lambda: png_with(b"IDAT", deflated_zeros(2**28, b"".join(bytes([0, *range(8)]) for _ in range(8)))),
    ),
    "tiff tile": ("tif", "TooLargeError", lambda: tiled(2**14, 2**14)),
    "tiff wide tile": ("tif", "TooLargeError", lambda: tiled(2**30, 16)),
    "nifti far away": ("nii.gz", "TooLargeError", lambda: gzipped_zeros(2**28, nifti_head(offset=2.0**28))),
    "nifti beyond all": (
        "nii.gz",
        "TooLargeError",
        lambda: gzipped_zeros(2**20, nifti_head(offset=1e30)),
    ),
    "nifti extension": (
        "nii.gz",
        "TooLargeError",
        lambda: gzipped_zeros(2**28, nifti_head(offset=2.0**23, extension=2**28)),
    ),
    "nifti volume": (
        "nii.gz",
        "TooLargeError",
        lambda: gzipped_zeros(2**20, nifti_head(shape=(2**12, 2**12, 2**10))),
    ),
    # What follows the volume is not inflated.
    "nifti tail": (
        "nii.gz",
        "read",
        lambda: gzipped_zeros(2**28, nifti_head() + bytes(range(64))),
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_costs_less_than_a_second_and_200_mib(tmp_path: Path, bomb: str):
    suffix, expected, make = BOMBS[bomb]
    path = tmp_path / f"bomb.{suffix}"
    path.write_bytes(make())
    assert path.stat().st_size < 2**20
    ran = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    outcome, seconds, mebibytes = ran.stdout.split()
    assert outcome == expected
    assert float(seconds) < MAX_S
    assert float(mebibytes) < MAX_MIB
