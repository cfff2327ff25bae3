"""Small files that ask for much are refused at once and at little cost, in a process that is measured."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.mediclip.data.dicom.conftest import GREY, as_bytes, dataset

MAX_S = 1.0
MAX_MIB = 200
# Seconds are the process's own, so that a busy machine does not decide; the memory is that of the whole
# process, Python, NumPy and pydicom included.
MEASURE = """
import sys, time
from pathlib import Path
from mediclip.data.dicom import read_dicom, read_header
from mediclip.errors import ImageError
for read in (read_header, read_dicom):
    begin = time.process_time()
    try:
        read(Path(sys.argv[1]), name="image 0")
        print("read", end=" ")
    except ImageError as error:
        print(type(error).__name__, end=" ")
    print(time.process_time() - begin, end=" ")
# Not getrusage, which counts what the parent had when it forked.
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024)
"""


def compressed(syntax: str, frame: bytes, rows: int, columns: int) -> bytes:
    made = dataset(np.zeros((3, 4), dtype=np.uint8), syntax=syntax, Rows=rows, Columns=columns)
    made.PixelData = encapsulate([frame])
    made["PixelData"].is_undefined_length = True
    return as_bytes(made)


def small_codestream(syntax: str) -> bytearray:
    """Compress an image of 64 x 64."""
    pixels = (np.arange(64 * 64) % 251).astype(np.uint8).reshape(64, 64)
    if syntax == JPEGBaseline8Bit:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG")
        return bytearray(stream.getvalue())
    made = dataset(pixels)
    made.compress(syntax)
    return bytearray(next(generate_frames(made.PixelData, number_of_frames=1)))


def claiming(syntax: str, side: int) -> bytes:
    """Let a small codestream say that its image is that large, and the header too if it can."""
    data = small_codestream(syntax)
    if syntax == JPEG2000Lossless:  # marker segment SIZ: size of the grid at 6, of a tile at 22
        at = data.index(b"\xff\x51")
        for offset in (6, 22):
            struct.pack_into(">2I", data, at + offset, side, side)
    else:  # start of frame: height and width at 5
        at = data.index(b"\xff\xf7" if syntax == JPEGLSLossless else b"\xff\xc0")
        struct.pack_into(">2H", data, at + 5, side, side)
    header = side if side < 2**16 else 64
    return compressed(syntax, bytes(data), header, header)


def runs(rows: int, columns: int, count: int) -> bytes:
    """Make one segment of runs, each of 127 zeros in two bytes."""
    frame = b"\1\0\0\0\x40\0\0\0" + bytes(56) + bytes([129, 0]) * count
    return compressed(RLELossless, frame, rows, columns)


def deflated(value: int, *, in_header: bool = False) -> bytes:
    """Deflate an image with so many bytes of pixels, or of a private element before them."""
    made = as_bytes(dataset(GREY, syntax=DeflatedExplicitVRLittleEndian))
    at = made.index(b"\2\0\x10\0UI")
    length = int.from_bytes(made[at + 6 : at + 8], "little")
    start = 144 + int.from_bytes(made[140:144], "little")
    assert start >= at + 8 + length
    plain = zlib.decompress(made[start:], -zlib.MAX_WBITS)
    pixels = plain.index(b"\xe0\x7f\x10\0OW\0\0")
    head = b"\x09\0\x10\x10UN\0\0" if in_header else plain[:pixels] + b"\xe0\x7f\x10\0OW\0\0"
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [deflater.compress(head + value.to_bytes(4, "little"))]
    parts += [deflater.compress(bytes(2**20)) for _ in range(value >> 20)]
    parts += [deflater.compress(bytes(value % 2**20)), deflater.flush()]
    return made[:start] + b"".join(parts)


def nested(depth: int) -> bytes:
    """Nest sequences of undefined length within each other."""
    made = as_bytes(dataset())
    at = made.index(b"\x08\0\x60\0CS")
    opening = b"\x28\0\x10\x30SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    return made[:at] + opening * depth


BOMBS: dict[str, Callable[[], bytes]] = {
    "runs of 65535 x 65535": lambda: runs(65535, 65535, 65535 * 65535 // 12800),
    "runs beyond their image": lambda: runs(64, 64, 2**23),
    "500 MB of deflated pixels": lambda: deflated(500_000_000),
    "500 MB of deflated header": lambda: deflated(500_000_000, in_header=True),
    "a codestream larger than its header": lambda: compressed(
        JPEGBaseline8Bit,
        b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00" + bytes(600_000),
        64,
        64,
    ),
    "65535 x 65535 in 65536 frames": lambda: as_bytes(
        dataset(Rows=65535, Columns=65535, NumberOfFrames=65536)
    ),
    "JPEG 2000 of 2147483647 x 2147483647": lambda: claiming(JPEG2000Lossless, 2**31 - 1),
    # As large as the caps allow: a decoder would make 67 million grey pixels of a kilobyte.
    "JPEG of 8192 x 8192": lambda: claiming(JPEGBaseline8Bit, 8192),
    "JPEG-LS of 8192 x 8192": lambda: claiming(JPEGLSLossless, 8192),
    "JPEG 2000 of 8192 x 8192": lambda: claiming(JPEG2000Lossless, 8192),
    "sequences nested 100,000 deep": lambda: nested(100_000),
    "a million fragments": lambda: (
        as_bytes(dataset(syntax=RLELossless, PixelData=None))
        + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
        + b"\xfe\xff\0\xe0\0\0\0\0" * 10**6
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_each_bomb_is_refused_in_under_a_second_and_200_mb(tmp_path: Path, bomb: str):
    path = tmp_path / "bomb.dcm"
    path.write_bytes(BOMBS[bomb]())
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True, timeout=60
    )
    _, header_s, image, image_s, mib = ran.stdout.split()
    assert float(header_s) < MAX_S
    assert float(image_s) < MAX_S
    assert float(mib) < MAX_MIB
    assert image in {"TooLargeError", "DecodeError", "TruncatedError", "InvalidHeaderError"} or (
        bomb == "runs beyond their image" and image == "DegenerateImageError"
    )
    assert ran.stderr == ""
