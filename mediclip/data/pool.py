"""A few processes that open images of any format, each of which is ended if a file takes it too long.

A decoder is code in C that meets whatever a hospital was sent. In a process of its own it can neither take
the program with it nor hold it for ever, and several frames are decoded at once.
"""

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

import mediclip
from mediclip import errors
from mediclip.data.policies import Choices
from mediclip.data.source import unusable
from mediclip.errors import DecodeError, InvalidHeaderError, MaskError, MediClipError

TIME_LIMIT_S: Final = 30.0
_MAX_WORKERS: Final = 8
# Of a frame; each reader has a cap of its own that is no larger.
_MAX_VALUES: Final = 2**26
_DTYPES: Final = ("uint8", "float32", "bool")
_MAX_HEAD_BYTES: Final = 2**16
_PIPE_BYTES: Final = 2**20


class DecoderPool:
    """Worker processes, started when they are first needed and kept for the next file.

    Args:
        workers: How many at most; as many as there are cores, up to 8, when omitted.
        time_limit_s: Seconds that one frame may take before its worker is ended, above 0.
    """

    def __init__(self, workers: int | None = None, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._time_limit_s = time_limit_s
        self._free = threading.BoundedSemaphore(workers or min(_MAX_WORKERS, os.cpu_count() or 1))
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()

    def read(
        self, path: Path, *, name: str, frame: int | None = None, choices: Choices | None = None
    ) -> NDArray[Any]:
        """Read an image as grey, as :func:`mediclip.data.formats.read_image`, in a worker.

        Args:
            path: The file.
            name: What messages call it.
            frame: Which frame, from 0; the one that stands for the file when omitted.
            choices: Policies of DICOM chosen in place of the usual ones, by modality.

        Returns:
            ``(H, W)``: uint8 in [0, 255] or float32 in [0, 1].

        Raises:
            ImageError: As ``read_image``; ``DecodeError`` also if the worker crashes or takes too long.
            SettingsError: If there is no such frame.
        """
        return cast("NDArray[Any]", self._ask("image", path, name, frame, choices=dict(choices or {})))

    def read_square(
        self,
        path: Path,
        *,
        name: str,
        side: int,
        frame: int | None = None,
        choices: Choices | None = None,
    ) -> NDArray[np.float32]:
        """Read an image resized to a square, as :func:`mediclip.data.square.to_square`, in a worker.

        Args:
            path: The file.
            name: What messages call it.
            side: Side S of the square in pixels.
            frame: Which frame, from 0; the one that stands for the file when omitted.
            choices: Policies of DICOM chosen in place of the usual ones, by modality.

        Returns:
            ``(S, S)`` in [0, 1].

        Raises:
            ImageError: As :meth:`read`.
            SettingsError: If there is no such frame.
        """
        return cast(
            "NDArray[np.float32]",
            self._ask("square", path, name, frame, side=side, choices=dict(choices or {})),
        )

    def read_stored(self, path: Path, *, name: str, frame: int | None = None) -> NDArray[np.float32]:
        """Read the values of an image as they are stored, in a worker.

        Args:
            path: The file.
            name: What messages call it.
            frame: Which frame, from 0; the one that stands for the file when omitted.

        Returns:
            As :func:`mediclip.data.formats.read_stored`.

        Raises:
            ImageError: As :meth:`read`.
            SettingsError: If there is no such frame.
        """
        return cast("NDArray[np.float32]", self._ask("stored", path, name, frame))

    def read_mask(self, path: Path, *, name: str, frame: int | None = None) -> NDArray[np.bool_]:
        """Read a mask, as :func:`mediclip.data.formats.read_mask`, in a worker.

        Args:
            path: The file.
            name: What messages call it.
            frame: Which frame, from 0; the one that stands for the file when omitted.

        Returns:
            ``(H, W)``, True where abnormal.

        Raises:
            MaskError: If the file cannot be used, or the worker crashes or takes too long.
            SettingsError: If there is no such frame.
        """
        return cast("NDArray[np.bool_]", self._ask("mask", path, name, frame))

    def read_shape(self, path: Path, *, name: str) -> tuple[int, int]:
        """Read height and width in pixels, as :func:`mediclip.data.formats.read_shape`, in a worker.

        Args:
            path: The file.
            name: What messages call it.

        Returns:
            Height and width before the image is cut.

        Raises:
            ImageError: As :meth:`read`.
        """
        return cast("tuple[int, int]", self._ask("shape", path, name))

    def read_box(self, path: Path, *, name: str) -> tuple[int, int, int, int] | None:
        """Read what an image is cut to, as :func:`mediclip.data.formats.read_box`, in a worker.

        Args:
            path: The file.
            name: What messages call it.

        Returns:
            Top, left, height and width in pixels; None where the image is left whole.

        Raises:
            ImageError: As :meth:`read`.
        """
        return cast("tuple[int, int, int, int] | None", self._ask("box", path, name))

    def _ask(self, what: str, path: Path, name: str, frame: int | None = None, **how: object) -> object:
        """Ask one thing of a file, by the first free worker."""
        asked = {"what": what, "path": str(path.absolute()), "name": name, "frame": frame, **how}
        with self._free:
            worker = self._take()
            try:
                answer = worker.ask(asked, self._time_limit_s)
            except MediClipError:
                self._keep(worker)
                raise
            except BaseException:
                worker.end()
                raise
            self._keep(worker)
            return answer

    def _take(self) -> "_Worker":
        """Take a worker that lives, or start one; an idle one may have been ended from outside."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                worker.end()
        return _Worker()

    def close(self) -> None:
        """End all idle workers; the pool can be used again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()

    def _keep(self, worker: "_Worker") -> None:
        if worker.alive:
            with self._lock:
                self._idle.append(worker)


class _Worker:
    """One process and its two pipes."""

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
            env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl  # noqa: PLC0415 - not on every system

            # An image would come in pieces of 64 KiB otherwise.
            fcntl.fcntl(cast("IO[bytes]", self._process.stdout), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not yet sent goes nowhere
                    pipe.close()

    def ask(self, asked: Mapping[str, object], limit_s: float) -> NDArray[Any] | tuple[int, ...] | None:
        try:
            told, pixels = self._exchange(asked, time.monotonic() + limit_s)
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
        shape = cast("list[int]", told["shape"])
        return np.frombuffer(pixels, dtype=str(told["dtype"])).reshape(shape)

    def _exchange(self, asked: Mapping[str, object], deadline: float) -> tuple[dict[str, object], bytearray]:
        pipe_in, pipe_out = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        pipe_in.write(json.dumps(asked).encode() + b"\n")
        pipe_in.flush()
        size = struct.unpack("<I", _exactly(pipe_out, 4, deadline))[0]
        if size > _MAX_HEAD_BYTES:
            raise EOFError
        told = json.loads(bytes(_exactly(pipe_out, size, deadline)))
        if "shape" not in told:
            return told, bytearray()
        height, width = (int(side) for side in told["shape"])
        if not 0 < height * width <= _MAX_VALUES or told["dtype"] not in _DTYPES:
            raise EOFError
        return told, _exactly(pipe_out, height * width * np.dtype(told["dtype"]).itemsize, deadline)


def _exactly(pipe: IO[bytes], size: int, deadline: float) -> bytearray:
    """Read so many bytes of a pipe without a buffer of its own, or give up at a time."""
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        if not wait([pipe.fileno()], max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        got = pipe.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        done += got
    return data


def _error(told: Mapping[str, object]) -> MediClipError:
    kind = getattr(errors, str(told["error"]), MediClipError)
    message = str(told["message"])
    if kind is InvalidHeaderError:
        return InvalidHeaderError(message, keyword=str(told["keyword"]))
    return cast("MediClipError", kind(message))


_pool: DecoderPool | None = None
_pool_lock = threading.Lock()


def shared_pool() -> DecoderPool:
    """Return the pool of this process, which is made when it is first asked for."""
    global _pool  # noqa: PLW0603 - one pool for all threads, ended with the process
    with _pool_lock:
        if _pool is None:
            _pool = DecoderPool()
            atexit.register(_pool.close)
        return _pool
