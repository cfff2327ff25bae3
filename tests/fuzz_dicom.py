"""Damage real DICOM files at random and read them: ``python tests/fuzz_dicom.py [inputs] [seed]``.

Every input must give a picture or an ``ImageError`` of one sentence, within 5 seconds, and nothing that is
put out may hold the canary that stands in every file in place of a name. A worker that dies counts as a
refusal for its user, but as a crash here.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom

from mediclip.data.dicom import read_dicom, read_header
from mediclip.data.dicom.pool import DecoderPool
from mediclip.errors import ImageError

CANARY = b"ZebedeeQuux"
MAX_S = 5.0
ROOT = Path(pydicom.__file__).parent / "data" / "test_files"
_SEEDS = """
CT_small MR_small MR_small_RLE MR_small_bigendian MR_small_implicit MR_small_jp2klossless
MR_small_jpeg_ls_lossless JPGExtended JPEG-lossy JPEGLSNearLossless_08 SC_rgb_rle_16bit_2frame
SC_rgb_small_odd SC_rgb_small_odd_jpeg SC_rgb_jpeg_gdcm SC_rgb_jpeg_dcmtk SC_rgb_gdcm_KY SC_rgb_jls_lossy_line
SC_ybr_full_422_uncompressed rtdose_rle rtdose_expb image_dfl liver_1frame ExplVR_BigEnd JPEG2000 693_J2KI
test-SR no_meta UN_sequence badVR
"""
# Lengths and numbers that parsers and decoders stumble over.
_TROUBLE = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x8000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def seeds() -> list[bytes]:
    """Read the files to start from, each with the canary in place of who is in it."""
    found = []
    for name in _SEEDS.split():
        data = (ROOT / f"{name}.dcm").read_bytes()
        for tag in (b"\x10\x00\x10\x00PN", b"\x10\x00\x20\x00LO"):
            at = data.find(tag)
            if at >= 0:
                size = int.from_bytes(data[at + 6 : at + 8], "little")
                data = data[: at + 8] + (CANARY * 9)[:size] + data[at + 8 + size :]
        found.append(data)
    return found


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


def fuzz(inputs: int, seed: int, folder: Path, *, pool: DecoderPool | None = None) -> Counter[str]:
    """Read so many damaged files.

    Args:
        inputs: How many.
        seed: Of the damage.
        folder: Where to put one at a time.
        pool: Processes to decode in; in this process when omitted, where a crash would end the run.

    Returns:
        How often each came out: ``"read"`` or the name of an error.

    Raises:
        AssertionError: If an input crashes, hangs, or gives a name away.
    """
    rng = np.random.default_rng(seed)
    start = seeds()
    path = folder / f"{CANARY.decode()}.dcm"
    counts: Counter[str] = Counter()
    for number in range(inputs):
        path.write_bytes(damaged(start[int(rng.integers(0, len(start)))], rng))
        begin = time.perf_counter()
        try:
            said = repr(read_header(path, name="image 0")).replace(CANARY.decode(), "")
            image = read_dicom(path, name="image 0") if pool is None else pool.read(path, name="image 0")
            assert image.dtype == np.float32, number
            assert image.min() >= 0, number
            assert image.max() <= 1, number
            counts["read"] += 1
        except ImageError as error:
            said = str(error)
            counts[type(error).__name__] += 1
            assert said.startswith("Cannot use image 0: it must "), (number, said)
            assert "crashed" not in said, number
            assert "took longer" not in said, number
        assert CANARY.decode().lower() not in said.lower(), (number, said)
        assert time.perf_counter() - begin < MAX_S, number
    return counts


def main() -> None:
    """Fuzz in a worker, and say what came out."""
    inputs, seed = (int(value) for value in (sys.argv[1:] + ["20000", "0"][len(sys.argv) - 1 :]))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts = fuzz(inputs, seed, Path(folder), pool=DecoderPool(workers=1, time_limit_s=MAX_S))
    sys.stdout.write(f"{inputs} inputs, seed {seed}, {time.perf_counter() - begin:.0f} s{os.linesep}")
    for kind, count in counts.most_common():
        sys.stdout.write(f"{count:8d} {kind}{os.linesep}")


if __name__ == "__main__":
    main()
