"""Open images of any format in a process of its own: ``python -m mediclip.data.worker``.

One line of JSON in (what to read, path, name, frame); out comes the length of one line of JSON, the line, and
the pixels if any were asked for. Nothing is pickled. The process gives itself a memory limit and ends with
its input.
"""

import contextlib
import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from mediclip.data import formats
from mediclip.data.square import to_square
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
        pixels = memoryview(b"")
        try:
            told, pixels = _answer(json.loads(line))
        except MediClipError as error:
            keyword = error.keyword if isinstance(error, InvalidHeaderError) else ""
            told = {"error": type(error).__name__, "message": str(error), "keyword": keyword}
        head = json.dumps(told).encode()
        answers.write(b"".join((struct.pack("<I", len(head)), head, pixels)))
        answers.flush()


def _answer(asked: Mapping[str, Any]) -> tuple[dict[str, object], memoryview]:
    path, name, frame = Path(asked["path"]), asked["name"], asked["frame"]
    match asked["what"]:
        case "image":
            found: np.ndarray[Any, Any] = formats.read_image(
                path, name=name, frame=frame, choices=asked["choices"]
            )
        case "square":
            found = to_square(
                formats.read_image(path, name=name, frame=frame, choices=asked["choices"]), asked["side"]
            )
        case "stored":
            found = formats.read_stored(path, name=name, frame=frame)
        case "mask":
            found = formats.read_mask(path, name=name, frame=frame)
        case "shape":
            return {"value": formats.read_shape(path, name=name)}, memoryview(b"")
        case _:
            return {"value": formats.read_box(path, name=name)}, memoryview(b"")
    return {"shape": found.shape, "dtype": found.dtype.name}, np.ascontiguousarray(found).data.cast("B")


if __name__ == "__main__":
    main()
