"""Squares kept on disk: the same file under the same preprocessing is not decoded again.

An entry is called by an HMAC of the file's SHA-256, the frame and the preprocessing's digest, and holds an
HMAC of itself, both under the key of the cache folder: its name tells nobody whose image it is, and one that
was changed, damaged or put there by somebody else is made again. Only the folder's owner may look into it.
"""

import contextlib
import hashlib
import hmac
import os
import tempfile
import threading
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mediclip.data.dicom_tree.cache import open_pseudonyms
from mediclip.data.preprocess import Preprocess
from mediclip.data.source import MAX_BYTES, opened
from mediclip.errors import SettingsError

DEFAULT_MAX_BYTES: Final = 2**32
_CHECK_BYTES: Final = 32
_CHUNK_BYTES: Final = 2**20
_SUFFIX: Final = ".square"
# What is left when the oldest are taken out, so that this is not done for every new one.
_KEPT: Final = 0.9


class ArrayCache:
    """A folder of squares. Threads and processes may share it.

    Args:
        folder: Where; it is made, for its owner alone, where it is missing. It belongs outside a data folder.
        max_bytes: Bytes that all entries may take, above 0; the ones used longest ago go first.

    Raises:
        SettingsError: If the folder cannot be used by its owner alone, or ``max_bytes`` is below 1.
    """

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 1:
            message = f"The 'max_bytes' of a cache must be at least 1, but it is {max_bytes}; correct it."
            raise SettingsError(message)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = folder.stat().st_mode
        except OSError as error:
            message = (
                f"The folder of a cache must be writable, but it is not ({error.strerror}); name another."
            )
            raise SettingsError(message) from None
        if os.name == "posix" and mode & 0o077:
            message = (
                "The folder of a cache must be its owner's alone (mode 0700), but others can look into it; "
                "correct that or name another."
            )
            raise SettingsError(message)
        self._folder = folder
        self._max_bytes = max_bytes
        self._pseudonyms = open_pseudonyms(folder)
        self._lock = threading.Lock()
        self._size = sum(size for _, size, _ in self._entries())

    def load(
        self, path: Path, preprocess: Preprocess, *, name: str, frame: int | None = None
    ) -> NDArray[np.float32]:
        """Give a square from the cache, or as :meth:`mediclip.data.preprocess.Preprocess.load_file` does.

        Args:
            path: The image's file.
            preprocess: How.
            name: What messages call it.
            frame: Which frame, from 0; the one that stands for the file when omitted.

        Returns:
            ``(S, S)`` in [0, 1], equal bit by bit to what is made without a cache.

        Raises:
            ImageError: If the file cannot be used.
        """
        seen = _look(path)
        if seen is None or seen[1] > MAX_BYTES:
            return preprocess.load_file(path, name=name, frame=frame)
        digest = _digest(path, name)
        entry = self._pseudonyms.name("square", f"{digest}\0{frame}\0{preprocess.digest()}")
        kept = self._read(entry, preprocess.image_size)
        if kept is not None:
            return kept
        image = preprocess.load_file(path, name=name, frame=frame)
        if _look(path) == seen:  # the digest is that of what was read
            self._write(entry, image)
        return image

    def _read(self, entry: str, side: int) -> NDArray[np.float32] | None:
        path = self._folder / f"{entry}{_SUFFIX}"
        try:
            content = path.read_bytes() if path.stat().st_size == _CHECK_BYTES + 4 * side * side else b""
            pixels = content[_CHECK_BYTES:]
            if not hmac.compare_digest(content[:_CHECK_BYTES], self._check(entry, pixels)):
                return None
            with contextlib.suppress(OSError):
                os.utime(path)  # used now
        except OSError:
            return None
        return np.frombuffer(pixels, dtype="<f4").astype(np.float32).reshape(side, side)

    def _write(self, entry: str, image: NDArray[np.float32]) -> None:
        """Write an entry in one step; a disk that is full is done without."""
        pixels = image.astype("<f4").tobytes()
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".part-", delete=False) as stream:
                try:  # mode 0600
                    stream.write(self._check(entry, pixels) + pixels)
                    stream.close()
                    Path(stream.name).replace(self._folder / f"{entry}{_SUFFIX}")
                except BaseException:
                    Path(stream.name).unlink(missing_ok=True)
                    raise
        except OSError:
            return
        with self._lock:
            self._size += _CHECK_BYTES + len(pixels)
            if self._size > self._max_bytes:
                self._take_out()

    def _check(self, entry: str, pixels: bytes) -> bytes:
        return hmac.new(self._pseudonyms.key, entry.encode() + pixels, hashlib.sha256).digest()

    def _take_out(self) -> None:
        """Remove what was used longest ago; another process may do the same."""
        entries = sorted(self._entries())
        left = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if left <= _KEPT * self._max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                left -= size
        self._size = left

    def _entries(self) -> list[tuple[int, int, Path]]:
        """List when each entry was last used, its size and its path."""
        found = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.lstat()
                found.append((status.st_mtime_ns, status.st_size, path))
        return found


def _look(path: Path) -> tuple[int, int, int] | None:
    """Tell by what a file is known to be unchanged: number, size and time."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _digest(path: Path, name: str) -> str:
    digest = hashlib.sha256()
    with opened(path, name=name) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
