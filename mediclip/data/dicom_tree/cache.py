"""What a scan remembers between runs, without anybody's name: keyed hashes and plain facts about images.

Everything lies outside the data folder, in one folder of this machine's user (:func:`cache_folder`): a random
key that only the user may read, and a file for each tree of images. Files are called by an HMAC-SHA256 of
their path and patients by one of their number, both under the key: nobody can tell from the cache alone who
is in it, or try names until one fits. Losing the folder costs a scan; the patients then have other names.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mediclip.errors import SettingsError

FOLDER_VARIABLE: Final = "MEDICLIP_CACHE"
_KEY_BYTES: Final = 32
_NAME_DIGITS: Final = 32
_MAX_CACHE_BYTES: Final = 2**28


def cache_folder() -> Path:
    """Say where this user's cache is.

    Returns:
        ``$MEDICLIP_CACHE``; else ``mediclip`` in ``$XDG_CACHE_HOME``, which is ``~/.cache`` if unset.

    Raises:
        SettingsError: If none of the variables is set and the user has no home.

    Source:
        XDG Base Directory Specification 0.8: a relative ``$XDG_CACHE_HOME`` is to be ignored.
    """
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "mediclip"
    try:
        return Path.home() / ".cache" / "mediclip"
    except RuntimeError:  # a service's user need not have a home
        message = (
            f"{FOLDER_VARIABLE} must name a cache folder where the user has no home, but it is not set; "
            "set it."
        )
        raise SettingsError(message) from None


@dataclass(frozen=True)
class Pseudonyms:
    """Names for what must not be called by its own.

    Attributes:
        key: Secret of the machine, 32 bytes.
    """

    key: bytes = field(repr=False)

    def name(self, kind: str, value: str) -> str:
        """Name a thing: the same for the same one, and nothing that leads back without the key.

        Args:
            kind: What it is, such as ``"patient"``; equal values of two kinds have different names.
            value: What it is really called.

        Returns:
            32 hexadecimal digits.
        """
        text = f"{kind}\0{value}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key, text, hashlib.sha256).hexdigest()[:_NAME_DIGITS]


def open_pseudonyms(folder: Path) -> Pseudonyms:
    """Read the machine's key, or make one when there is none.

    Args:
        folder: The cache folder. It is made, for its owner alone, where it is missing.

    Returns:
        Names under the key; under a key of this run alone where the folder cannot be written.

    Raises:
        SettingsError: If others can read the key, or it is no key.
    """
    path = folder / "key"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make_key(path)
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            key = stream.read(_KEY_BYTES + 1)
    except OSError:
        return Pseudonyms(secrets.token_bytes(_KEY_BYTES))
    if len(key) != _KEY_BYTES or (os.name == "posix" and stat.S_IMODE(mode) & 0o077):
        found = "it has another length" if len(key) != _KEY_BYTES else "others can read it"
        message = (
            f"The key file in the cache folder must have {_KEY_BYTES} bytes that its owner alone can read, "
            f"but {found}; remove it, and a new one is made."
        )
        raise SettingsError(message)
    return Pseudonyms(key)


def _make_key(path: Path) -> None:
    """Write a key in one step, so that of two programs that start at once both use the first one's."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".key-") as stream:  # mode 0600
        stream.write(secrets.token_bytes(_KEY_BYTES))
        stream.flush()
        os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(stream.name, path)


class ScanCache:
    """The facts of one tree's files, each as they were at a size and time.

    Args:
        folder: The cache folder.
        tree: The tree, by its real path.
        pseudonyms: Names under the machine's key.
        version: What the facts mean; a cache of another version is dropped.
    """

    def __init__(self, folder: Path, tree: Path, pseudonyms: Pseudonyms, version: str) -> None:
        self._path = folder / "scans" / f"{pseudonyms.name('tree', str(tree))}.json"
        self._pseudonyms = pseudonyms
        self._version = version
        self._old: Mapping[str, Any] = self._load()
        self._new: dict[str, list[Any]] = {}

    def _load(self) -> Mapping[str, Any]:
        try:
            if self._path.stat().st_size > _MAX_CACHE_BYTES:
                return {}
            content = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(content, dict) or content.get("version") != self._version:
            return {}
        files = content.get("files")
        return files if isinstance(files, dict) else {}

    def find(self, relative: str, size: int, mtime_ns: int) -> Any | None:  # noqa: ANN401 - plain JSON
        """Give the facts of a file that has not changed since.

        Args:
            relative: Its path below the tree.
            size: Its size in bytes.
            mtime_ns: When it was last written, in nanoseconds.

        Returns:
            What was kept by :meth:`keep`, or None.
        """
        name = self._pseudonyms.name("file", relative)
        entry = self._old.get(name)
        if not isinstance(entry, list) or len(entry) != 3 or entry[:2] != [size, mtime_ns]:
            return None
        self._new[name] = entry
        return entry[2]

    def keep(self, relative: str, size: int, mtime_ns: int, facts: Any) -> None:  # noqa: ANN401 - plain JSON
        """Keep the facts of a file, as plain JSON values.

        Args:
            relative: Its path below the tree.
            size: Its size in bytes.
            mtime_ns: When it was last written, in nanoseconds.
            facts: Nothing that tells who a patient is.
        """
        self._new[self._pseudonyms.name("file", relative)] = [size, mtime_ns, facts]

    def save(self) -> None:
        """Write what was found or kept, in one step; a folder that cannot be written is done without."""
        if self._new == self._old:
            return
        content = json.dumps({"version": self._version, "files": self._new}, separators=(",", ":"))
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=".scan-")  # mode 0600
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                    stream.write(content)
                Path(name).replace(self._path)
            except OSError:
                Path(name).unlink(missing_ok=True)
