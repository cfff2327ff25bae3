"""One process that decodes (:mod:`mediclip.data.worker`), from the side of the program that asks it.

A question may be sent before the answer to the last one has come, so that the process is never idle; answers
come in the order of the questions.
"""

import contextlib
import json
import os
import selectors
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

import mediclip
from mediclip import errors
from mediclip.data.source import unusable
from mediclip.errors import DecodeError, InvalidHeaderError, MaskError, MediClipError

Answer = NDArray[Any] | tuple[int, ...] | None
# Of a frame; each reader has a cap of its own that is no larger.
_MAX_VALUES: Final = 2**26
_DTYPES: Final = ("uint8", "float32", "bool")
_MAX_HEAD_BYTES: Final = 2**16
_PIPE_BYTES: Final = 2**20
# Arrays of an image's size are made and dropped for each file. glibc would give them back to the system and
# fetch zeroed pages for the next, which takes as long as decoding; other C libraries ignore these.
_KEPT_MEMORY: Final = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**26)}


class DecoderProcess:
    """One process and its two pipes. To be used by one thread at a time."""

    def __init__(self) -> None:
        root = str(Path(mediclip.__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mediclip.data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a buffer would hide what has come
            stderr=subprocess.DEVNULL,  # libraries in C write there, about what stands in a file
            env=os.environ | threads | _KEPT_MEMORY | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        self._in, self._out = (
            cast("IO[bytes]", pipe) for pipe in (self._process.stdin, self._process.stdout)
        )
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl  # noqa: PLC0415 - not on every system

            # An image would come in pieces of 64 KiB otherwise.
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(self._out.fileno(), False)
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._out, selectors.EVENT_READ)
        self._asked: deque[Mapping[str, object]] = deque()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        self._ready.close()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):  # what was not yet sent goes nowhere
                pipe.close()

    def send(self, asked: Mapping[str, object]) -> None:
        """Send a question: what to read of a file, its path, its name in messages, and how.

        At most two may wait for their answers: more might fill both pipes, and each side would wait for the
        other.
        """
        self._asked.append(asked)
        with contextlib.suppress(OSError, ValueError):  # its answer will show that nobody is there
            self._in.write(json.dumps(asked).encode() + b"\n")

    def receive(self, limit_s: float) -> Answer:
        """Wait for the answer to the first question that has none.

        Args:
            limit_s: Seconds from now, after which the process is ended.

        Returns:
            Pixels, a size, a box, or None where there is no box.

        Raises:
            ImageError: What is wrong with the file; of a mask ``MaskError``. ``DecodeError`` if the process
                dies or takes too long, which ends it.
            SettingsError: If there is no such frame.
        """
        asked = self._asked.popleft()
        try:
            told, pixels = self._answer(time.monotonic() + limit_s)
        except (OSError, EOFError, ValueError, LookupError, TypeError) as fault:
            self.end()
            overdue = isinstance(fault, TimeoutError)
            found = f"it took longer than {limit_s:g} s" if overdue else "its decoder crashed"
            kind = MaskError if asked["what"] == "mask" else DecodeError
            do = "convert it or take it out of the set"
            raise unusable(str(asked["name"]), "be decoded without harm", found, do, error=kind) from None
        if "error" in told:
            raise _error(told)
        if "value" in told:
            value = cast("list[int] | None", told["value"])
            return None if value is None else tuple(value)
        return pixels

    def forget(self, limit_s: float) -> None:
        """Let the answers that nobody wants any more come, each in so many seconds."""
        while self._asked and self.alive:
            with contextlib.suppress(MediClipError):
                self.receive(limit_s)

    def _answer(self, deadline: float) -> tuple[dict[str, object], NDArray[Any]]:
        size = struct.unpack("<I", self._exactly(bytearray(4), deadline))[0]
        if size > _MAX_HEAD_BYTES:
            raise EOFError
        told = json.loads(bytes(self._exactly(bytearray(size), deadline)))
        if "shape" not in told:
            return told, np.empty((0, 0))
        height, width = (int(side) for side in told["shape"])
        if not 0 < height * width <= _MAX_VALUES or told["dtype"] not in _DTYPES:
            raise EOFError
        pixels = np.empty((height, width), dtype=told["dtype"])
        self._exactly(pixels.data.cast("B"), deadline)
        return told, pixels

    def _exactly(self, into: bytearray | memoryview, deadline: float) -> bytearray | memoryview:
        """Fill a buffer from the pipe, or give up at a time."""
        view = memoryview(into)
        done = 0
        while done < len(view):
            got = self._out.readinto(view[done:])  # type: ignore[attr-defined]
            if got is None:  # nothing has come yet
                if not self._ready.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
            elif not got:
                raise EOFError
            else:
                done += got
        return into


def _error(told: Mapping[str, object]) -> MediClipError:
    kind = getattr(errors, str(told["error"]), MediClipError)
    message = str(told["message"])
    if kind is InvalidHeaderError:
        return InvalidHeaderError(message, keyword=str(told["keyword"]))
    return cast("MediClipError", kind(message))
