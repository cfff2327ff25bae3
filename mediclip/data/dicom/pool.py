"""A few processes that decode, each of which is ended if a file takes it too long.

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
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final, cast

import numpy as np
from numpy.typing import NDArray

import mediclip
from mediclip import errors
from mediclip.data.dicom.faults import Fault
from mediclip.data.dicom.limits import MAX_FRAME_VALUES
from mediclip.errors import DecodeError, InvalidHeaderError, MediClipError

TIME_LIMIT_S: Final = 30.0
_MAX_WORKERS: Final = 8
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

    def read(self, path: Path, *, name: str, frame: int = 0) -> NDArray[np.float32]:
        """Read one frame as grey, as :func:`mediclip.data.dicom.read_dicom`, in a worker.

        Args:
            path: The file.
            name: What messages call it.
            frame: Which frame, from 0.

        Returns:
            ``(H, W)`` in [0, 1].

        Raises:
            ImageError: As ``read_dicom``; ``DecodeError`` also if the worker crashes or takes too long.
            SettingsError: If there is no such frame.
        """
        with self._free:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            worker = worker or _Worker()
            try:
                image = worker.read(path, name, frame, self._time_limit_s)
            except MediClipError:
                self._keep(worker)
                raise
            except BaseException:
                worker.end()
                raise
            self._keep(worker)
            return image

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
            [sys.executable, "-m", "mediclip.data.dicom.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
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
                pipe.close()

    def read(self, path: Path, name: str, frame: int, limit_s: float) -> NDArray[np.float32]:
        overdue = threading.Event()

        def end() -> None:
            overdue.set()
            self._process.kill()

        timer = threading.Timer(limit_s, end)
        timer.start()
        try:
            told, pixels = self._ask({"path": str(path.absolute()), "name": name, "frame": frame})
        except (OSError, EOFError, ValueError, LookupError, TypeError):
            self.end()
            found = f"it took longer than {limit_s:g} s" if overdue.is_set() else "its decoder crashed"
            do = "convert it or take it out of the set"
            raise Fault(DecodeError, "be decoded without harm", found, do).named(name) from None
        finally:
            timer.cancel()
        if "error" in told:
            raise _error(told)
        return np.frombuffer(pixels, dtype=np.float32).reshape(cast("list[int]", told["shape"]))

    def _ask(self, asked: Mapping[str, object]) -> tuple[dict[str, object], bytearray]:
        pipe_in, pipe_out = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        pipe_in.write(json.dumps(asked).encode() + b"\n")
        pipe_in.flush()
        size = struct.unpack("<I", _exactly(pipe_out, 4))[0]
        if size > _MAX_HEAD_BYTES:
            raise EOFError
        told = json.loads(bytes(_exactly(pipe_out, size)))
        count = 0
        if "error" not in told:
            height, width = (int(side) for side in told["shape"])
            count = height * width
            if not 0 < count <= MAX_FRAME_VALUES:
                raise EOFError
        return told, _exactly(pipe_out, 4 * count)


def _exactly(pipe: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
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
