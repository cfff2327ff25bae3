"""Which code runs: a digest of the application's source as it is imported."""

import functools
import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("client", "mediclip", "server")
_NOT_SOURCE = {"_bundle", "__pycache__"}


def digest_of(packages: Mapping[str, Path]) -> str:
    """Digest the Python files of some packages.

    Args:
        packages: Folder of each package under its name.

    Returns:
        SHA-256 as hexadecimal, the same wherever the folders lie and whatever else they hold.
    """
    lines = []
    for name, folder in packages.items():
        for file in folder.rglob("*.py"):
            inside = file.relative_to(folder)
            if _NOT_SOURCE.isdisjoint(inside.parts):
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                lines.append(f"{name}/{inside.as_posix()} {content}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


@functools.cache
def source_digest() -> str:
    """Digest the application that this process imports, wherever it was found.

    Server and sites compare it: a process started in another checkout imports that checkout's code without a
    word.

    Returns:
        SHA-256 of ``client``, ``mediclip`` and ``server``, as hexadecimal; a package that cannot be imported
        counts as empty.
    """
    folders = {}
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            folders[name] = Path(spec.origin).parent
    return digest_of(folders)
