"""Decode DICOM frames in a process of its own: ``python -m mediclip.data.dicom.worker``.

One line of JSON in (path, name, frame); out comes the length of one line of JSON, the line, and the pixels.
Nothing is pickled. The process gives itself a memory limit and ends with its input.
"""

import contextlib
import json
import struct
import sys
from pathlib import Path
from typing import BinaryIO, Final

from mediclip.data.dicom.reader import read_dicom
from mediclip.errors import InvalidHeaderError, MediClipError

MAX_MEMORY_BYTES: Final = 3 * 2**30


def main() -> None:
    """Answer requests until the input ends."""
    _limit()
    _serve(sys.stdin.buffer, sys.stdout.buffer)


def _limit() -> None:
    """Bound the memory of this process, and let it leave no core file: that would hold an image."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 - not on every system

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    for line in requests:
        asked = json.loads(line)
        pixels = b""
        told: dict[str, object]
        try:
            image = read_dicom(Path(asked["path"]), name=asked["name"], frame=asked["frame"])
            told = {"shape": image.shape}
            pixels = image.tobytes()
        except MediClipError as error:
            keyword = error.keyword if isinstance(error, InvalidHeaderError) else ""
            told = {"error": type(error).__name__, "message": str(error), "keyword": keyword}
        head = json.dumps(told).encode()
        answers.write(struct.pack("<I", len(head)) + head + pixels)
        answers.flush()


if __name__ == "__main__":
    main()
