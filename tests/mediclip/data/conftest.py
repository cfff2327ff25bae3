"""Small real files: a PNG encoder that is independent of the one under test, and sets in both layouts."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(
    pixels: NDArray[Any], colour_type: int, *, size: tuple[int, int] | None = None, extra: bytes = b""
) -> bytes:
    """Encode ``(H, W)`` or ``(H, W, channels)`` uint8 or uint16 by the PNG specification (W3C, 11.2).

    ``size`` (width, height) lies about the size in the header; ``extra`` is the text of a tRNS chunk.
    """
    depth = pixels.dtype.itemsize * 8
    width, height = size or (pixels.shape[1], pixels.shape[0])
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(data)), _chunk(b"IEND", b"")]
    if extra:
        parts.insert(1, _chunk(b"tRNS", extra))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture
def encode_png() -> Callable[..., bytes]:
    return png_bytes


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def write_image(path: Path, value: int = 128, size: tuple[int, int] = (40, 36)) -> Path:
    """Write an image of one grey level, of ``size`` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


@pytest.fixture
def write() -> Callable[..., Path]:
    return write_image


@pytest.fixture
def write_lists(tmp_path: Path) -> Callable[..., Path]:
    """Write a set of MediCLIP lists from entries or raw lines; listed images are made unless told not to."""

    def make(train: list[Any], test: list[Any], *, images: bool = True) -> Path:
        root = tmp_path / "set"
        (root / "samples").mkdir(parents=True, exist_ok=True)
        (root / "images").mkdir(exist_ok=True)
        for split, entries in (("train", train), ("test", test)):
            lines = [e if isinstance(e, bytes) else json.dumps(e).encode() for e in entries]
            (root / "samples" / f"{split}.json").write_bytes(b"".join(line + b"\n" for line in lines))
            for entry in entries if images else ():
                if isinstance(entry, dict) and isinstance(entry.get("filename"), str):
                    write_image(root / "images" / entry["filename"])
        return root

    return make


@pytest.fixture
def plain_set(tmp_path: Path) -> Path:
    """Make a set of plain folders: 5 normal, 3 abnormal, 3 masks."""
    root = tmp_path / "plain"
    for i in range(5):
        write_image(root / "normal" / f"n{i}.png", 100 + i)
    for i in range(3):
        write_image(root / "abnormal" / f"a{i}.jpg", 200 + i)
        write_image(root / "masks" / f"a{i}.png", i)
    return root
