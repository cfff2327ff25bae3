"""A few processes that open images of any format, each of which is ended if a file takes it too long.

A decoder is code in C that meets whatever a hospital was sent. In a process of its own it can neither take
the program with it nor hold it for ever, and several frames are decoded at once.
"""

import atexit
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from mediclip.data.decoder_process import Answer, DecoderProcess
from mediclip.data.policies import Choices
from mediclip.errors import MediClipError

File = tuple[Path, str, int | None]
"""A file, what messages call it, and which of its frames."""
TIME_LIMIT_S: Final = 30.0
_MAX_WORKERS: Final = 8


class DecoderPool:
    """Worker processes, started when they are first needed and kept for the next file.

    Args:
        workers: How many at most; as many as there are cores, up to 8, when omitted.
        time_limit_s: Seconds that one frame may take before its worker is ended, above 0.
    """

    def __init__(self, workers: int | None = None, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._time_limit_s = time_limit_s
        self._free = threading.BoundedSemaphore(workers or min(_MAX_WORKERS, os.cpu_count() or 1))
        self._idle: list[DecoderProcess] = []
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

    def read_squares(
        self, files: Sequence[File], *, side: int, choices: Choices | None = None
    ) -> list[NDArray[np.float32]]:
        """Read images resized to squares, as :func:`mediclip.data.square.to_square`, in one worker.

        The worker has the next file before it has answered for the last: many files take less time in parts
        of several than one by one.

        Args:
            files: At least one, each with what messages call it and its frame, from 0; None for the frame
                that stands for it.
            side: Side S of a square in pixels.
            choices: Policies of DICOM chosen in place of the usual ones, by modality.

        Returns:
            ``(S, S)`` in [0, 1] for each file.

        Raises:
            ImageError: As :meth:`read`, for the first file that cannot be used.
            SettingsError: If there is no such frame.
        """
        chosen = dict(choices or {})
        first, *others = [_question("square", *file, side=side, choices=chosen) for file in files]
        squares: list[NDArray[np.float32]] = []
        with self._worker() as worker:
            worker.send(first)
            for upcoming in (*others, None):
                if upcoming is not None:
                    worker.send(upcoming)
                try:
                    squares.append(cast("NDArray[np.float32]", worker.receive(self._time_limit_s)))
                except MediClipError:
                    worker.forget(self._time_limit_s)
                    raise
        return squares

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

    def _ask(self, what: str, path: Path, name: str, frame: int | None = None, **how: object) -> Answer:
        """Ask one thing of a file, by the first free worker."""
        with self._worker() as worker:
            worker.send(_question(what, path, name, frame, **how))
            return worker.receive(self._time_limit_s)

    @contextmanager
    def _worker(self) -> Iterator[DecoderProcess]:
        """Lend a free worker, and keep it unless it is in the middle of something."""
        with self._free:
            worker = self._take()
            try:
                yield worker
            except MediClipError:
                self._keep(worker)
                raise
            except BaseException:
                worker.end()
                raise
            self._keep(worker)

    def _take(self) -> DecoderProcess:
        """Take a worker that lives, or start one; an idle one may have been ended from outside."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                worker.end()
        return DecoderProcess()

    def prepare(self) -> None:
        """Start a worker before the first file, so that it imports its libraries beside this process."""
        self._keep(self._take())

    def close(self) -> None:
        """End all idle workers; the pool can be used again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()

    def _keep(self, worker: DecoderProcess) -> None:
        if worker.alive:
            with self._lock:
                self._idle.append(worker)


def _question(what: str, path: Path, name: str, frame: int | None, **how: object) -> dict[str, object]:
    return {"what": what, "path": str(path.absolute()), "name": name, "frame": frame, **how}


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
