"""Find the images in a tree of files by their headers, quickly, and leave the rest out with a count.

Only regular files of the tree itself are opened: no link is followed, and a DICOMDIR is one more file that is
no image. Headers are read in parallel, and only those of files that are new or have changed since the last
scan (:mod:`mediclip.data.dicom_tree.cache`).
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from mediclip.data.dicom_tree.cache import Pseudonyms, ScanCache, cache_folder, open_pseudonyms
from mediclip.data.dicom_tree.facts import ImageFacts
from mediclip.errors import ManifestError, SettingsError

MAX_FILES: Final = 10**6
OnProgress = Callable[[int, int], None]
HIDDEN: Final = "hidden"
LINK: Final = "link"
SPECIAL: Final = "no regular file"
# Part of the cache's version: a new one where facts are read in another way.
_VERSION: Final = "3"
_CHUNK: Final = 64
_MAX_WORKERS: Final = 8


@dataclass(frozen=True)
class TreeImage:
    """One image of a tree.

    Attributes:
        file: Its path below the tree, with forward slashes.
        facts: What its header says.
        group: Its patient, by a keyed hash: of the patient's number; where there is none, of the study's;
            where there is neither, of the file's own path.
    """

    file: str = field(repr=False)
    facts: ImageFacts
    group: str


@dataclass(frozen=True)
class TreeScan:
    """What is in a tree.

    Attributes:
        images: Its images, in the order of their paths.
        left_out: How many files are no usable image, for each reason.
        reasons: Why a file was left out, by its path below the tree.
        pseudonyms: Names of patients under this machine's key.
        n_read: How many headers were read; those of the other files were remembered.
    """

    images: tuple[TreeImage, ...] = field(repr=False)
    left_out: dict[str, int]
    reasons: dict[str, str] = field(repr=False)
    pseudonyms: Pseudonyms = field(repr=False)
    n_read: int


def scan_tree(
    directory: Path, name: str, *, cache: Path | None = None, on_progress: OnProgress | None = None
) -> TreeScan:
    """Look at all files of a tree.

    Args:
        directory: The folder.
        name: What messages call the set.
        cache: Folder to remember headers in, outside the data folder; the user's cache when omitted.
        on_progress: Called with headers read and to be read.

    Returns:
        Its images and what else is there.

    Raises:
        ManifestError: If there are more than a million files.
        OSError: If a folder cannot be read.
        SettingsError: If the cache folder lies in the data folder or its key cannot be used.
    """
    tree = directory.resolve()
    folder = (cache_folder() if cache is None else cache).resolve()
    if folder.is_relative_to(tree):
        message = (
            f"The cache folder must lie outside the data folder of {name!r}, but it lies inside; choose "
            "another with MEDICLIP_CACHE."
        )
        raise SettingsError(message)
    pseudonyms = open_pseudonyms(folder)
    memory = ScanCache(folder, tree, pseudonyms, _VERSION)
    files, passed = walk(tree)
    found = {file.relative: memory.find(file.relative, file.size, file.mtime_ns) for file in files}
    new = [file for file in files if _parsed(found[file.relative]) is None]
    done = 0
    for chunk, seen in _look_in_parallel(tree, new, pseudonyms):
        for file, plain in zip(chunk, seen, strict=True):
            found[file.relative] = plain
            memory.keep(file.relative, file.size, file.mtime_ns, plain)
        done += len(chunk)
        if on_progress is not None:
            on_progress(done, len(new))
    memory.save()
    images: list[TreeImage] = []
    reasons: dict[str, str] = {}
    for file in files:
        parsed = _parsed(found[file.relative])
        if isinstance(parsed, str):
            reasons[file.relative] = parsed
        elif parsed is not None:
            images.append(TreeImage(file.relative, *parsed))
    left_out = Counter(reasons.values()) + passed
    return TreeScan(tuple(images), dict(sorted(left_out.items())), reasons, pseudonyms, len(new))


@dataclass(frozen=True)
class TreeFile:
    """One regular file of a tree.

    Attributes:
        relative: Its path below the tree, with forward slashes.
        size: Its size in bytes.
        mtime_ns: When it was last written, in nanoseconds.
    """

    relative: str = field(repr=False)
    size: int
    mtime_ns: int


def walk(tree: Path) -> tuple[list[TreeFile], Counter[str]]:
    """List the regular files of a tree.

    Args:
        tree: The folder.

    Returns:
        The files in the order of their paths, and how many entries were passed over as hidden, links or
        special files; a folder counts as one.

    Raises:
        ManifestError: If there are more than a million files.
        OSError: If a folder cannot be read.
    """
    passed: Counter[str] = Counter()
    found: list[TreeFile] = []
    folders = [("", str(tree))]
    while folders:
        prefix, folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                relative = prefix + entry.name
                if entry.name.startswith("."):
                    passed[HIDDEN] += 1
                elif entry.is_symlink():
                    passed[LINK] += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders.append((relative + "/", entry.path))
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append(TreeFile(relative, status.st_size, status.st_mtime_ns))
                else:
                    passed[SPECIAL] += 1
        if len(found) > MAX_FILES:
            message = f"A tree of DICOM files must have at most {MAX_FILES} files, but it has more; split it."
            raise ManifestError(message)
    return sorted(found, key=lambda file: file.relative.split("/")), passed


def _look_in_parallel(
    tree: Path, files: Sequence[TreeFile], pseudonyms: Pseudonyms
) -> Iterator[tuple[Sequence[TreeFile], list[list[Any]]]]:
    """Read headers on several threads, so that files of a slow disk or a network share are awaited together.

    Python parses one at a time; processes were no faster on two cores, for what it takes to start them.
    """
    chunks = [files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK)]
    with ThreadPoolExecutor(_MAX_WORKERS, thread_name_prefix="headers") as pool:
        try:
            yield from zip(
                chunks,
                pool.map(lambda chunk: [_look(tree, file, pseudonyms) for file in chunk], chunks),
                strict=True,
            )
        finally:
            pool.shutdown(cancel_futures=True)


def _look(tree: Path, file: TreeFile, pseudonyms: Pseudonyms) -> list[Any]:
    """Read one header; the result is plain JSON: a reason, or facts and group."""
    from mediclip.data.dicom_tree.look import look  # noqa: PLC0415 - brings pydicom, which a score needs not

    seen = look(tree / file.relative, file.relative, pseudonyms)
    return [seen] if isinstance(seen, str) else [asdict(seen[0]), seen[1]]


def _parsed(kept: Any) -> str | tuple[ImageFacts, str] | None:  # noqa: ANN401 - plain JSON, perhaps damaged
    """Read what :func:`_look` returned, perhaps long ago; None if it is damaged."""
    match kept:
        case [str(reason)]:
            return reason
        case [dict(facts), str(group)]:
            try:
                return ImageFacts(**facts), group
            except TypeError:
                return None
    return None
